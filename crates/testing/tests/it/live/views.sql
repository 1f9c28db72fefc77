CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device VARCHAR);
CREATE STREAM application
  (id VARCHAR, customer_id BIGINT, device VARCHAR, contacts BIGINT[], amount DOUBLE, at TIMESTAMP)
  EVENT TIME at DEDUPLICATE BY (id);
CREATE STREAM elsewhere (person BIGINT, lender VARCHAR, wanted VARCHAR, at TIMESTAMP) EVENT TIME at;

-- One event, a row for each contact.
CREATE VIEW contact_named AS
  SELECT id, unnest(contacts) AS customer_id, amount, at FROM application;

-- Two streams, one relation; what says no amount is left out before it is read as one.
CREATE VIEW anywhere AS
  SELECT customer_id, 'us' AS lender, amount AS wanted, at FROM application
  UNION ALL
  SELECT person, lender, try_cast(wanted AS DOUBLE), at FROM elsewhere WHERE wanted <> 'none';

CREATE FEATURE VIEW named ENTITY customer EVENT TIME at AS
  SELECT customer_id, count(*) OVER d30 AS times_30d, sum(amount) OVER d30 AS amount_30d,
         max(amount) OVER h1 AS most_1h
  FROM contact_named
  WINDOW d30 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
         h1 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW everywhere ENTITY customer EVENT TIME at AS
  SELECT customer_id, sum(wanted) OVER d30 AS wanted_30d, count(DISTINCT lender) OVER d30 AS lenders_30d,
         count(*) FILTER (WHERE lender <> 'us') OVER d30 AS elsewhere_30d
  FROM anywhere
  WINDOW d30 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW newest ENTITY customer EVENT TIME at TTL INTERVAL '12 hours' AS
  SELECT customer_id, at, lender, wanted FROM anywhere WHERE wanted > 25;

CREATE FEATURE VIEW device_use ENTITY device EVENT TIME at AS
  SELECT device, count(DISTINCT customer_id) OVER m10 AS customers_10m,
         avg(amount) OVER m10 AS amount_10m
  FROM application
  WINDOW m10 AS (PARTITION BY device ORDER BY at RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW);
