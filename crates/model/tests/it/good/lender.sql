CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT 'a person with an account';

CREATE EXTERNAL TABLE raw_transactions STORED AS PARQUET LOCATION 'data/transactions/';
CREATE VIEW clean_transactions AS SELECT * FROM raw_transactions WHERE amount > 0; -- a plain SQL view: a shared cleaning step
EVENT TIME OF clean_transactions IS at CREATED TIME written_at;

CREATE STREAM card_event (event_id VARCHAR, customer_id BIGINT, device_id VARCHAR, amount DOUBLE, at TIMESTAMP)
  EVENT TIME at  DEDUPLICATE BY (event_id);

CREATE FEATURE VIEW customer_spend
  ENTITY customer  EVENT TIME at  OWNER 'risk-data'  TAGS (pii = 'none')  COMMENT 'card spending'
AS SELECT customer_id,
          count(*)                  OVER d7  AS txn_count_7d,
          sum(amount)               OVER d30 AS amount_30d,
          count(DISTINCT device_id) OVER d30 AS devices_30d
   FROM card_event
   WINDOW d7  AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '7 days'  PRECEDING AND CURRENT ROW),
          d30 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW customer_profile ENTITY customer EVENT TIME at CREATED TIME written_at TTL INTERVAL '2 years'
AS SELECT customer_id, at, written_at, monthly_income, last_device_id FROM clean_profiles;

CREATE ON DEMAND FEATURE VIEW affordability INPUT (requested_amount DOUBLE, term_months INT)
AS SELECT requested_amount / nullif(customer_profile.monthly_income, 0) AS loan_to_income FROM customer_profile;

CREATE FEATURE SERVICE risk_admission AS
  SELECT customer_spend.*, guarantor.amount_30d AS guarantor_amount_30d, device_risk.users_7d, affordability.loan_to_income
  FROM customer_spend, affordability,
       customer_spend AS guarantor KEY (customer_id => guarantor_id),
       device_risk KEY (device_id => customer_profile.last_device_id);

GRANT READ ON FEATURE SERVICE risk_admission TO ROLE risk;
COMMENT ON COLUMN customer_spend.txn_count_7d IS 'settled card payments, 7 days';
