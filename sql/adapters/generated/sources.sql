-- Adapter: data made by `granary demo`.
--
-- Parquet files, one a canonical view, with exactly the columns and types of
-- ../../canonical.sql: data/customers.parquet, data/accounts.parquet, ...

CREATE EXTERNAL TABLE generated_customers STORED AS PARQUET LOCATION 'data/customers.parquet';
CREATE EXTERNAL TABLE generated_accounts STORED AS PARQUET LOCATION 'data/accounts.parquet';
CREATE EXTERNAL TABLE generated_transactions STORED AS PARQUET LOCATION 'data/transactions.parquet';
CREATE EXTERNAL TABLE generated_loans STORED AS PARQUET LOCATION 'data/loans.parquet';
CREATE EXTERNAL TABLE generated_applications STORED AS PARQUET LOCATION 'data/applications.parquet';
CREATE EXTERNAL TABLE generated_repayments STORED AS PARQUET LOCATION 'data/repayments.parquet';
CREATE EXTERNAL TABLE generated_purchases STORED AS PARQUET LOCATION 'data/purchases.parquet';
CREATE EXTERNAL TABLE generated_calls STORED AS PARQUET LOCATION 'data/calls.parquet';
CREATE EXTERNAL TABLE generated_messages STORED AS PARQUET LOCATION 'data/messages.parquet';
CREATE EXTERNAL TABLE generated_contacts STORED AS PARQUET LOCATION 'data/contacts.parquet';
CREATE EXTERNAL TABLE generated_devices STORED AS PARQUET LOCATION 'data/devices.parquet';
CREATE EXTERNAL TABLE generated_places STORED AS PARQUET LOCATION 'data/places.parquet';

CREATE VIEW customers AS
SELECT customer_id, at, birth_date, gender, place_id, phone_number, country
FROM generated_customers;

CREATE VIEW accounts AS
SELECT account_id, customer_id, at, place_id, statement_frequency
FROM generated_accounts;

CREATE VIEW transactions AS
SELECT transaction_id, account_id, at, amount, channel, purpose, counterparty
FROM generated_transactions;

CREATE VIEW loans AS
SELECT loan_id, application_id, customer_id, account_id, guarantor_id, at, amount, term_months, instalment
FROM generated_loans;

CREATE VIEW applications AS
SELECT application_id, customer_id, at, guarantor_id, phone_number, device_id, place_id, amount, term_months
FROM generated_applications;

CREATE VIEW repayments AS
SELECT loan_id, customer_id, instalment_no, at, event, due_at, amount
FROM generated_repayments;

CREATE VIEW purchases AS
SELECT invoice_id, customer_id, at, item_id, quantity, unit_price, amount, is_return
FROM generated_purchases;

CREATE VIEW calls AS
SELECT caller, callee, at, seconds, is_missed
FROM generated_calls;

CREATE VIEW messages AS
SELECT sender, recipient, at
FROM generated_messages;

CREATE VIEW contacts AS
SELECT phone_number, contact_number, at
FROM generated_contacts;

CREATE VIEW devices AS
SELECT device_id, customer_id, phone_number, at, platform
FROM generated_devices;

CREATE VIEW places AS
SELECT customer_id, place_id, at, latitude, longitude
FROM generated_places;
