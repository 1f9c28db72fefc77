CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device_id VARCHAR);

CREATE EXTERNAL TABLE payments (customer_id BIGINT, device_id VARCHAR, amount DOUBLE, at TIMESTAMP, written_at TIMESTAMP)
  STORED AS CSV LOCATION 'data/' OPTIONS ('format.has_header' 'true');
EVENT TIME OF payments IS at CREATED TIME written_at;

CREATE STREAM tap (id VARCHAR, customer_id BIGINT, n BIGINT, at TIMESTAMP) EVENT TIME at DEDUPLICATE BY (id);

-- The newest run's row.
CREATE FEATURE VIEW total ENTITY customer
AS SELECT customer_id, count(*) AS payments, sum(amount) AS amount FROM payments GROUP BY customer_id;

CREATE FEATURE VIEW last_payment ENTITY customer EVENT TIME at CREATED TIME written_at TTL INTERVAL '20 days'
AS SELECT customer_id, at, written_at, amount AS last_amount, device_id FROM payments;

-- Written by a run, from files.
CREATE FEATURE VIEW spend ENTITY customer EVENT TIME at CREATED TIME written_at TTL INTERVAL '30 days'
AS SELECT customer_id, sum(amount) OVER d30 AS amount_30d, top_k(device_id, 2) OVER d30 AS devices_30d
   FROM payments
   WINDOW d30 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW device_use ENTITY device SERVE QUERY
AS SELECT device_id, count(*) AS uses FROM payments GROUP BY device_id;

-- Live.
CREATE FEATURE VIEW taps ENTITY customer EVENT TIME at
AS SELECT customer_id, count(*) OVER h AS taps_1h, sum(n) OVER h AS n_1h FROM tap
   WINDOW h AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW last_tap ENTITY customer EVENT TIME at
AS SELECT customer_id, at, n AS last_n FROM tap;

CREATE ON DEMAND FEATURE VIEW share INPUT (asked DOUBLE)
AS SELECT asked / nullif(spend.amount_30d, 0) AS asked_share, spend.amount_30d / total.payments AS per_payment
   FROM spend, total;

CREATE FEATURE SERVICE admission AS
  SELECT total.*, last_payment.*, spend.*, device_use.uses, taps.*, last_tap.last_n, share.*
  FROM total, last_payment, spend, taps, last_tap, share,
       device_use KEY (device_id => last_payment.device_id);
