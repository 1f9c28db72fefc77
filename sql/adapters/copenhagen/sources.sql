-- Adapter: phones of the Copenhagen Networks Study (Sci Data 6:315, 2019), 28 days.
-- data/ is the folder of its files.
--
-- Times are seconds from the start of the study, which is not told: it is set
-- to 2015-01-01T00:00:00Z here. A user is a phone; the user's number is its
-- phone number. A call of -1 seconds was missed. Messages hold exact
-- duplicates, which count once. Friend edges are undirected, stored once and
-- without a time: both directions, from the start on.

CREATE EXTERNAL TABLE copenhagen_calls (timestamp BIGINT, "from" BIGINT, "to" BIGINT, duration BIGINT)
STORED AS CSV LOCATION 'data/calls.csv.gz'
OPTIONS ('format.has_header' 'true', 'format.compression' 'gzip');

CREATE EXTERNAL TABLE copenhagen_sms (timestamp BIGINT, "from" BIGINT, "to" BIGINT)
STORED AS CSV LOCATION 'data/sms.csv.gz'
OPTIONS ('format.has_header' 'true', 'format.compression' 'gzip');

CREATE EXTERNAL TABLE copenhagen_friends (user_a BIGINT, user_b BIGINT)
STORED AS CSV LOCATION 'data/fb_friends.csv.gz'
OPTIONS ('format.has_header' 'true', 'format.compression' 'gzip');

CREATE VIEW calls AS
SELECT CAST("from" AS VARCHAR) AS caller,
       CAST("to" AS VARCHAR) AS callee,
       arrow_cast(to_timestamp_seconds(1420070400 + timestamp), 'Timestamp(Microsecond, Some("UTC"))') AS at,
       nullif(duration, -1) AS seconds,
       duration = -1 AS is_missed
FROM copenhagen_calls;

CREATE VIEW messages AS
SELECT DISTINCT CAST("from" AS VARCHAR) AS sender,
       CAST("to" AS VARCHAR) AS recipient,
       arrow_cast(to_timestamp_seconds(1420070400 + timestamp), 'Timestamp(Microsecond, Some("UTC"))') AS at
FROM copenhagen_sms;

CREATE VIEW contacts AS
SELECT CAST(user_a AS VARCHAR) AS phone_number, CAST(user_b AS VARCHAR) AS contact_number,
       arrow_cast(to_timestamp_seconds(1420070400), 'Timestamp(Microsecond, Some("UTC"))') AS at
FROM copenhagen_friends
UNION ALL
SELECT CAST(user_b AS VARCHAR), CAST(user_a AS VARCHAR),
       arrow_cast(to_timestamp_seconds(1420070400), 'Timestamp(Microsecond, Some("UTC"))')
FROM copenhagen_friends;

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

CREATE VIEW devices AS
SELECT CAST(NULL AS VARCHAR) AS device_id,
       CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS VARCHAR) AS phone_number,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS VARCHAR) AS platform
WHERE false;

CREATE VIEW places AS
SELECT CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS BIGINT) AS place_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DOUBLE) AS latitude,
       CAST(NULL AS DOUBLE) AS longitude
WHERE false;
