-- What features describe.
CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT 'a person who buys here';

-- Sources: files, on this machine or on object storage. Paths are relative to
-- the project folder.
CREATE EXTERNAL TABLE profiles (
  customer_id BIGINT, at TIMESTAMP, city VARCHAR, monthly_income DOUBLE
) STORED AS CSV LOCATION 'data/profiles.csv' OPTIONS ('format.has_header' 'true');

CREATE EXTERNAL TABLE orders (
  order_id BIGINT, customer_id BIGINT, at TIMESTAMP, amount DECIMAL(12, 2), category VARCHAR
) STORED AS CSV LOCATION 'data/orders.csv' OPTIONS ('format.has_header' 'true');

-- Since it is known when an order was made, a run as of last month does not
-- see those of this month.
EVENT TIME OF orders IS at;

-- A shared cleaning step: returns are no orders.
CREATE VIEW kept_orders AS SELECT * FROM orders WHERE amount > 0;
EVENT TIME OF kept_orders IS at;

-- A timestamped view: of each customer the newest row is served, while it is
-- not older than the TTL.
CREATE FEATURE VIEW customer_profile
  ENTITY customer EVENT TIME at TTL INTERVAL '2 years'
  OWNER 'crm' COMMENT 'what the customer told us'
AS SELECT customer_id, at, city, monthly_income FROM profiles;

-- A snapshot view: one row a customer, computed as of the run.
CREATE FEATURE VIEW customer_orders
  ENTITY customer
  OWNER 'crm' COMMENT 'what was ordered in the 30 days before the run'
AS SELECT customer_id,
          count(*)                 AS orders_30d,
          sum(amount)              AS amount_30d,
          count(DISTINCT category) AS categories_30d,
          max(at)                  AS last_order_at
   FROM kept_orders
   WHERE at > as_of() - INTERVAL '30 days'
   GROUP BY customer_id;

COMMENT ON COLUMN customer_orders.amount_30d IS 'sum of orders, returns left out';

-- What one consumer reads together.
CREATE FEATURE SERVICE shop_overview OWNER 'crm' COMMENT 'what the shop shows its staff of a customer'
AS SELECT customer_profile.*, customer_orders.* FROM customer_profile, customer_orders;
