-- Adapter: check-ins of Gowalla (Cho, Myers, Leskovec, KDD 2011). data/ is the
-- folder of its file: tab separated, no header; user, time, latitude,
-- longitude, place; newest first of each user. A user is a customer.

CREATE EXTERNAL TABLE gowalla_checkins (user_id BIGINT, time VARCHAR, latitude DOUBLE, longitude DOUBLE, place_id BIGINT)
STORED AS CSV LOCATION 'data/gowalla_global_first10k.csv.gz'
OPTIONS ('format.delimiter' '	', 'format.has_header' 'false', 'format.compression' 'gzip');

CREATE VIEW places AS
SELECT user_id AS customer_id, place_id,
       arrow_cast(time, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       latitude, longitude
FROM gowalla_checkins;

-- Subjects that the data set lacks.

CREATE VIEW customers AS
SELECT CAST(NULL AS BIGINT) AS customer_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DATE) AS birth_date,
       CAST(NULL AS VARCHAR) AS gender,
       CAST(NULL AS BIGINT) AS place_id,
       CAST(NULL AS VARCHAR) AS phone_number,
       CAST(NULL AS VARCHAR) AS country
WHERE false;

CREATE VIEW accounts AS
SELECT CAST(NULL AS BIGINT) AS account_id,
       CAST(NULL AS BIGINT) AS customer_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS BIGINT) AS place_id,
       CAST(NULL AS VARCHAR) AS statement_frequency
WHERE false;

CREATE VIEW transactions AS
SELECT CAST(NULL AS BIGINT) AS transaction_id,
       CAST(NULL AS BIGINT) AS account_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DECIMAL(14, 2)) AS amount,
       CAST(NULL AS VARCHAR) AS channel,
       CAST(NULL AS VARCHAR) AS purpose,
       CAST(NULL AS VARCHAR) AS counterparty
WHERE false;

CREATE VIEW loans AS
SELECT CAST(NULL AS BIGINT) AS loan_id,
       CAST(NULL AS BIGINT) AS application_id,
       CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS BIGINT) AS account_id,
       CAST(NULL AS BIGINT) AS guarantor_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DECIMAL(14, 2)) AS amount,
       CAST(NULL AS INT) AS term_months,
       CAST(NULL AS DECIMAL(14, 2)) AS instalment
WHERE false;

CREATE VIEW applications AS
SELECT CAST(NULL AS BIGINT) AS application_id,
       CAST(NULL AS BIGINT) AS customer_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS BIGINT) AS guarantor_id,
       CAST(NULL AS VARCHAR) AS phone_number,
       CAST(NULL AS VARCHAR) AS device_id,
       CAST(NULL AS BIGINT) AS place_id,
       CAST(NULL AS DECIMAL(14, 2)) AS amount,
       CAST(NULL AS INT) AS term_months
WHERE false;

CREATE VIEW repayments AS
SELECT CAST(NULL AS BIGINT) AS loan_id,
       CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS INT) AS instalment_no,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS VARCHAR) AS event,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS due_at,
       CAST(NULL AS DECIMAL(14, 2)) AS amount
WHERE false;

CREATE VIEW purchases AS
SELECT CAST(NULL AS VARCHAR) AS invoice_id,
       CAST(NULL AS BIGINT) AS customer_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS VARCHAR) AS item_id,
       CAST(NULL AS BIGINT) AS quantity,
       CAST(NULL AS DECIMAL(14, 4)) AS unit_price,
       CAST(NULL AS DECIMAL(14, 2)) AS amount,
       CAST(NULL AS BOOLEAN) AS is_return
WHERE false;

CREATE VIEW calls AS
SELECT CAST(NULL AS VARCHAR) AS caller,
       CAST(NULL AS VARCHAR) AS callee,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS BIGINT) AS seconds,
       CAST(NULL AS BOOLEAN) AS is_missed
WHERE false;

CREATE VIEW messages AS
SELECT CAST(NULL AS VARCHAR) AS sender,
       CAST(NULL AS VARCHAR) AS recipient,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at
WHERE false;

CREATE VIEW contacts AS
SELECT CAST(NULL AS VARCHAR) AS phone_number,
       CAST(NULL AS VARCHAR) AS contact_number,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at
WHERE false;

CREATE VIEW devices AS
SELECT CAST(NULL AS VARCHAR) AS device_id,
       CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS VARCHAR) AS phone_number,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS VARCHAR) AS platform
WHERE false;
