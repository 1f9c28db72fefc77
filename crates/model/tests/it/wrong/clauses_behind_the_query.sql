CREATE FEATURE VIEW v ENTITY customer AS SELECT customer_id, x FROM t TTL INTERVAL '2 days';
CREATE FEATURE VIEW v ENTITY customer AS
  SELECT customer_id, x
  FROM t
  WHERE owner = 'x'
  OWNER 'risk';
CREATE FEATURE VIEW v ENTITY customer AS SELECT customer_id, x FROM t SERVE OFFLINE;
