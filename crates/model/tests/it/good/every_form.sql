-- Every statement in forms that the others don't show.
CREATE ENTITY a COMMENT 'before the key' KEY (k1 SMALLINT, k2 INTEGER, k3 INT8, k4 TEXT, k5 BYTEA, k6 DATE);
create entity "Mixed Case" key ("Key Column" character varying(20));;

CREATE STREAM s (
  a BOOLEAN, b TINYINT, c INT4, d BIGINT UNSIGNED, e FLOAT, f FLOAT8, g DOUBLE PRECISION, h NUMERIC(12, 2),
  i DECIMAL(5), j DEC, k STRING, l BLOB, m TIMESTAMP(6) WITH TIME ZONE, n TIMESTAMPTZ, o BIGINT[],
  p ARRAY<VARCHAR(10)>, q DECIMAL(4, 4) ARRAY, at TIMESTAMP WITHOUT TIME ZONE
) COMMENT 'pushed by applications' THEN BY (a, b) HISTORY s_history OWNER $$the 'team'$$ TAGS (x = '1')
  DEDUPLICATE BY (a) EVENT TIME at;

CREATE EXTERNAL TABLE IF NOT EXISTS t (x INT, y VARCHAR(10)) STORED AS CSV
  LOCATION 'data/t.csv.gz' OPTIONS ('format.has_header' 'true', 'format.delimiter' ';', 'format.compression' 'gzip');
CREATE OR REPLACE EXTERNAL TABLE u STORED AS DELTATABLE LOCATION 's3://bucket/u';
CREATE OR REPLACE VIEW v (one, two) AS SELECT x, y FROM t WHERE y <> ';' AND "semi;colon" = 1; /* ; */
CREATE VIEW w AS WITH a AS (SELECT 1 AS x) SELECT comment, owner, key, at FROM a JOIN events ON true;
CREATE VIEW x AS VALUES (1, 'a'), (2, 'b');

EVENT TIME OF v IS one;
EVENT TIME OF "Mixed Case View" IS "At" CREATED TIME written;

CREATE FEATURE VIEW p ENTITY a, "Mixed Case"
  SERVE OFFLINE TTL INTERVAL '1 month 2 days' MAX EVENTS 18446744073709551615
  REFRESH EVERY INTERVAL '90' MINUTES
AS (SELECT k1, extract(year FROM at) AS y, a IS DISTINCT FROM b AS z FROM t);
CREATE FEATURE VIEW q ENTITY a SERVE QUERY AS FROM t;
CREATE FEATURE VIEW key ENTITY a SERVE ONLINE AS SELECT owner, 'TTL INTERVAL' AS comment FROM (SELECT 1) AS serve;

CREATE ON DEMAND FEATURE VIEW d1 INPUT (x DOUBLE, list BIGINT[]) COMMENT 'only inputs'
AS SELECT input.x * 2 AS twice, x IS DISTINCT FROM 3 AS other, left('abc', 1) AS l, array_length(list) AS n;
CREATE ON DEMAND FEATURE VIEW d2 AS
SELECT p.y + o.y AS both FROM p, p AS o KEY (k1 => p.other_key, k2 => 7, k3 => coalesce(p.a, p.b), k4 => "K"), d1;

CREATE FEATURE SERVICE svc OWNER 'x' TAGS (a = 'b') COMMENT '' AS
SELECT p.y, p.z other, o.* , sum(contact.applied_14d) AS contacts_applied_14d, count(contact.x)
FROM p, p o KEY (k1 => k9), contact KEY (customer_id => EACH p.contacts, each => each);

REVOKE READ ON FEATURE VIEW p FROM ROLE "risk-data";
COMMENT ON ENTITY a IS NULL;
COMMENT ON TABLE t IS 'a';
COMMENT ON EXTERNAL TABLE t IS 'a';
COMMENT ON VIEW v IS E'tab\there';
COMMENT ON STREAM s IS 'a';
COMMENT ON FEATURE VIEW p IS 'it''s';
COMMENT ON ON DEMAND FEATURE VIEW d1 IS 'a';
COMMENT ON FEATURE SERVICE svc IS 'a';
COMMENT ON COLUMN "Mixed Case View"."Some Column" IS 'a'
;
-- Words of ours that are names of columns, tables and aliases.
CREATE FEATURE VIEW names ENTITY a AS
SELECT event time, created time, ttl interval, serve online, max events, p.comment AS owner FROM event time
  LEFT JOIN created time ON true WHERE key = 1;
CREATE ON DEMAND FEATURE VIEW offsets AS SELECT p.offset + 1 AS limit, p.left, right('abc', 1) AS window FROM p;
CREATE FEATURE SERVICE words AS SELECT p.offset, p.limit AS bound, p.left full_name FROM p
