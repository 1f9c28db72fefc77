-- Adapter: UCI Online Retail II, 2009-12 to 2010-12. data/ is the folder of its file.
--
-- `Customer ID` is DOUBLE and NULL for a fifth of the lines: these lines stay,
-- and belong to nobody. An invoice whose number begins with C takes goods
-- back; other quantities of zero or less are corrections of the stock, prices
-- of zero are gifts, prices below zero (invoices with A) correct bad debts:
-- none is a sale or a return, so they are left out. Times are text, local,
-- taken as UTC.

CREATE EXTERNAL TABLE online_retail STORED AS PARQUET LOCATION 'data/year_2009_2010.parquet';

CREATE VIEW purchases AS
SELECT "Invoice" AS invoice_id,
       CAST("Customer ID" AS BIGINT) AS customer_id,
       arrow_cast("InvoiceDate", 'Timestamp(Microsecond, Some("UTC"))') AS at,
       "StockCode" AS item_id,
       "Quantity" AS quantity,
       CAST("Price" AS DECIMAL(14, 4)) AS unit_price,
       CAST("Quantity" * CAST("Price" AS DECIMAL(14, 4)) AS DECIMAL(14, 2)) AS amount,
       starts_with("Invoice", 'C') AS is_return
FROM online_retail
WHERE "Price" > 0
  AND ((starts_with("Invoice", 'C') AND "Quantity" < 0) OR (NOT starts_with("Invoice", 'C') AND "Quantity" > 0));

-- A customer registers with the first invoice; one with a new country moves.
CREATE VIEW customers AS
SELECT CAST("Customer ID" AS BIGINT) AS customer_id,
       arrow_cast(min("InvoiceDate"), 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DATE) AS birth_date,
       CAST(NULL AS VARCHAR) AS gender,
       CAST(NULL AS BIGINT) AS place_id,
       CAST(NULL AS VARCHAR) AS phone_number,
       "Country" AS country
FROM online_retail
WHERE "Customer ID" IS NOT NULL
GROUP BY "Customer ID", "Country";

-- Subjects that the data set lacks.

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
