-- Adapter: the Czech bank of PKDD'99 ("Berka"). data/ is the folder of its files.
--
-- Files: `;` between fields, quoted, gzip. Dates are numbers YYMMDD of the
-- 20th century. A day's facts were known at its end: day + 1 day - 1 microsecond.
--
-- transactions: the sign of an amount is its type (PRIJEM in; VYDAJ and VYBER
--   out). A k_symbol of one blank says "other", an empty one says nothing; so
--   does a missing operation: the bank's own booking. Withdrawals with SLUZBY,
--   UROK and SANKC. UROK are the bank's too.
-- loans: the status (A finished paid, B finished unpaid, C running fine, D in
--   debt) is how the loan ended, years after the grant: a label, not a feature.
--   It stays in berka_loan.
-- repayments: the file of loans has no schedule; the bank takes instalments on
--   the 12th, the first on the first 12th after the grant. Payments (UVER) go
--   to the oldest instalments first, one each.
-- There are no applications (only grants), purchases, phones, devices or sightings.

CREATE EXTERNAL TABLE berka_account (account_id BIGINT, district_id BIGINT, frequency VARCHAR, date BIGINT)
STORED AS CSV LOCATION 'data/account.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');

CREATE EXTERNAL TABLE berka_client (client_id BIGINT, birth_number VARCHAR, district_id BIGINT)
STORED AS CSV LOCATION 'data/client.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');

CREATE EXTERNAL TABLE berka_disp (disp_id BIGINT, client_id BIGINT, account_id BIGINT, type VARCHAR)
STORED AS CSV LOCATION 'data/disp.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');

CREATE EXTERNAL TABLE berka_loan (loan_id BIGINT, account_id BIGINT, date BIGINT, amount DECIMAL(14, 2), duration INT, payments DECIMAL(14, 2), status VARCHAR)
STORED AS CSV LOCATION 'data/loan.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');

CREATE EXTERNAL TABLE berka_trans (trans_id BIGINT, account_id BIGINT, date BIGINT, type VARCHAR, operation VARCHAR, amount DECIMAL(14, 2), balance DECIMAL(14, 2), k_symbol VARCHAR, bank VARCHAR, account VARCHAR)
STORED AS CSV LOCATION 'data/trans_prefix_1993-01_1994-03.asc.gz'
OPTIONS ('format.delimiter' ';', 'format.has_header' 'true', 'format.compression' 'gzip');

-- A client registers with the first account that he or she may dispose of.
CREATE VIEW customers AS
SELECT berka_client.client_id AS customer_id,
       min(accounts.at) AS at,
       make_date(1900 + CAST(substr(birth_number, 1, 2) AS INT),
                 CAST(substr(birth_number, 3, 2) AS INT) % 50,
                 CAST(substr(birth_number, 5, 2) AS INT)) AS birth_date,
       CASE WHEN CAST(substr(birth_number, 3, 2) AS INT) > 50 THEN 'F' ELSE 'M' END AS gender,
       berka_client.district_id AS place_id,
       CAST(NULL AS VARCHAR) AS phone_number,
       'Czech Republic' AS country
FROM berka_client
  JOIN berka_disp ON berka_disp.client_id = berka_client.client_id
  JOIN accounts ON accounts.account_id = berka_disp.account_id
GROUP BY berka_client.client_id, birth_number, berka_client.district_id;

CREATE VIEW accounts AS
SELECT berka_account.account_id,
       berka_disp.client_id AS customer_id,
       arrow_cast(make_date(1900 + date / 10000, date / 100 % 100, date % 100), 'Timestamp(Microsecond, Some("UTC"))')
         + INTERVAL '1 day' - INTERVAL '1 microsecond' AS at,
       district_id AS place_id,
       CASE frequency WHEN 'POPLATEK MESICNE' THEN 'monthly'
                      WHEN 'POPLATEK TYDNE' THEN 'weekly'
                      WHEN 'POPLATEK PO OBRATU' THEN 'after transaction' END AS statement_frequency
FROM berka_account
  JOIN berka_disp ON berka_disp.account_id = berka_account.account_id AND berka_disp.type = 'OWNER';

CREATE VIEW transactions AS
SELECT trans_id AS transaction_id,
       account_id,
       arrow_cast(make_date(1900 + date / 10000, date / 100 % 100, date % 100), 'Timestamp(Microsecond, Some("UTC"))')
         + INTERVAL '1 day' - INTERVAL '1 microsecond' AS at,
       CAST(CASE type WHEN 'PRIJEM' THEN amount ELSE -amount END AS DECIMAL(14, 2)) AS amount,
       CASE WHEN k_symbol IN ('SLUZBY', 'UROK', 'SANKC. UROK') THEN 'bank'
            WHEN operation IN ('VKLAD', 'VYBER') THEN 'cash'
            WHEN operation = 'VYBER KARTOU' THEN 'card'
            WHEN operation IN ('PREVOD Z UCTU', 'PREVOD NA UCET') THEN 'transfer'
            ELSE 'bank' END AS channel,
       CASE k_symbol WHEN 'DUCHOD' THEN 'pension'
                     WHEN 'SIPO' THEN 'household'
                     WHEN 'POJISTNE' THEN 'insurance'
                     WHEN 'UVER' THEN 'loan payment'
                     WHEN 'UROK' THEN 'interest'
                     WHEN 'SANKC. UROK' THEN 'penalty interest'
                     WHEN 'SLUZBY' THEN 'fee'
                     WHEN ' ' THEN 'other' END AS purpose,
       nullif(bank, '') || ' ' || account AS counterparty
FROM berka_trans;

CREATE VIEW loans AS
SELECT loan_id,
       CAST(NULL AS BIGINT) AS application_id,
       accounts.customer_id,
       berka_loan.account_id,
       CAST(NULL AS BIGINT) AS guarantor_id,
       arrow_cast(make_date(1900 + date / 10000, date / 100 % 100, date % 100), 'Timestamp(Microsecond, Some("UTC"))')
         + INTERVAL '1 day' - INTERVAL '1 microsecond' AS at,
       amount,
       duration AS term_months,
       payments AS instalment
FROM berka_loan JOIN accounts ON accounts.account_id = berka_loan.account_id;

CREATE VIEW berka_schedule AS
WITH numbered AS (
  SELECT *, unnest(generate_series(1, CAST(term_months AS BIGINT))) AS instalment_no
  FROM loans),
months AS (
  SELECT *, CAST(date_part('year', at) * 12 + date_part('month', at) - 2
                 + CASE WHEN date_part('day', at) < 12 THEN 0 ELSE 1 END AS BIGINT) + instalment_no AS month
  FROM numbered)
SELECT loan_id, customer_id, account_id, instalment, instalment_no,
       arrow_cast(make_date(month / 12, month % 12 + 1, 12), 'Timestamp(Microsecond, Some("UTC"))')
         + INTERVAL '1 day' - INTERVAL '1 microsecond' AS due_at
FROM months;

CREATE VIEW berka_payments AS
SELECT account_id, at, -amount AS amount,
       row_number() OVER (PARTITION BY account_id ORDER BY at, amount, transaction_id) AS instalment_no
FROM transactions
WHERE purpose = 'loan payment';

CREATE VIEW repayments AS
SELECT loan_id, customer_id, CAST(instalment_no AS INT) AS instalment_no, due_at AS at, 'due' AS event, due_at, instalment AS amount
FROM berka_schedule
UNION ALL
SELECT loan_id, customer_id, CAST(berka_schedule.instalment_no AS INT), berka_payments.at, 'paid', due_at,
       CAST(berka_payments.amount AS DECIMAL(14, 2))
FROM berka_payments JOIN berka_schedule
  ON berka_schedule.account_id = berka_payments.account_id AND berka_schedule.instalment_no = berka_payments.instalment_no;

-- Subjects that the data set lacks.

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

CREATE VIEW places AS
SELECT CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS BIGINT) AS place_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DOUBLE) AS latitude,
       CAST(NULL AS DOUBLE) AS longitude
WHERE false;
