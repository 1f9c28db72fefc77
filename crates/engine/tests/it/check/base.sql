CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device_id VARCHAR);

CREATE EXTERNAL TABLE payments STORED AS CSV LOCATION 'data/payments.csv' OPTIONS ('format.has_header' 'true');
EVENT TIME OF payments IS at;
CREATE EXTERNAL TABLE profiles STORED AS CSV LOCATION 'data/profiles.csv' OPTIONS ('format.delimiter' ';', 'format.has_header' 'true');

CREATE VIEW clean_profiles AS
SELECT CAST("Customer ID" AS BIGINT) AS customer_id, income, CAST(at AS TIMESTAMP) AS at, written_at, home FROM profiles;

CREATE FEATURE VIEW customer_profile ENTITY customer EVENT TIME at CREATED TIME written_at
AS SELECT customer_id, at, written_at, income, home FROM clean_profiles;
CREATE FEATURE VIEW customer_spend ENTITY customer
AS SELECT customer_id, sum(amount) AS amount, count(*) AS payments FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW device_use ENTITY device EVENT TIME at
AS SELECT device_id, at, amount AS last_amount, customer_id AS last_customer_id FROM payments;
CREATE FEATURE VIEW customer_label ENTITY customer SERVE OFFLINE
AS SELECT customer_id, max(amount) > 5 AS is_big FROM payments GROUP BY customer_id;

CREATE FEATURE SERVICE admission AS
SELECT customer_profile.*, customer_spend.amount, device_use.last_amount FROM customer_profile, customer_spend, device_use;
