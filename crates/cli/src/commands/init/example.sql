-- What features describe.
CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT 'a person who shops here';

-- Sources: files, on this machine or on object storage. Paths are relative to
-- the project folder.
CREATE EXTERNAL TABLE profiles (
  customer_id BIGINT, at TIMESTAMP, city VARCHAR, monthly_income DOUBLE
) STORED AS CSV LOCATION 'data/profiles.csv' OPTIONS ('format.has_header' 'true');

CREATE EXTERNAL TABLE payments (
  payment_id BIGINT, customer_id BIGINT, at TIMESTAMP, amount DECIMAL(12, 2), shop VARCHAR
) STORED AS CSV LOCATION 'data/payments.csv' OPTIONS ('format.has_header' 'true');

-- Since it is known when a payment happened, a run as of last month does not
-- see those of this month.
EVENT TIME OF payments IS at;

-- A shared cleaning step: refunds are not spending.
CREATE VIEW purchases AS SELECT * FROM payments WHERE amount > 0;
EVENT TIME OF purchases IS at;

-- A timestamped view: of each customer the newest row is served, while it is
-- not older than the TTL.
CREATE FEATURE VIEW customer_profile
  ENTITY customer EVENT TIME at TTL INTERVAL '2 years'
  OWNER 'crm' COMMENT 'what the customer told us'
AS SELECT customer_id, at, city, monthly_income FROM profiles;

-- A snapshot view: one row a customer, computed as of the run.
CREATE FEATURE VIEW customer_spend
  ENTITY customer
  OWNER 'crm' COMMENT 'spending in the 30 days before the run'
AS SELECT customer_id,
          count(*)             AS purchases_30d,
          sum(amount)          AS amount_30d,
          count(DISTINCT shop) AS shops_30d,
          max(at)              AS last_purchase_at
   FROM purchases
   WHERE at > as_of() - INTERVAL '30 days'
   GROUP BY customer_id;

COMMENT ON COLUMN customer_spend.amount_30d IS 'sum of purchases, refunds left out';

-- What one consumer reads together.
CREATE FEATURE SERVICE shop_offers OWNER 'crm' COMMENT 'for the offers in the shop'
AS SELECT customer_profile.*, customer_spend.* FROM customer_profile, customer_spend;
