-- A made-up village, as of 2026-01-31: customers 1, 2 and 3 apply from place 7,
-- two of them for one another; 9 answers for the loans of 1 and 3, of which one
-- is late and one is partly paid; device d1 goes from hand to hand. Rows of
-- February must not be seen.

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
SELECT CAST(column1 AS BIGINT) AS loan_id,
       CAST(column2 AS BIGINT) AS application_id,
       CAST(column3 AS BIGINT) AS customer_id,
       CAST(column4 AS BIGINT) AS account_id,
       CAST(column5 AS BIGINT) AS guarantor_id,
       arrow_cast(column6, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(column7 AS DECIMAL(14, 2)) AS amount,
       CAST(column8 AS INT) AS term_months,
       CAST(column9 AS DECIMAL(14, 2)) AS instalment
FROM (VALUES
  (10, 4, 1, 1, 9, '2025-11-21', 500, 6, 100),
  (30, 3, 3, 3, 9, '2025-12-02', 1500, 6, 300));

CREATE VIEW applications AS
SELECT CAST(column1 AS BIGINT) AS application_id,
       CAST(column2 AS BIGINT) AS customer_id,
       arrow_cast(column3, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(column4 AS BIGINT) AS guarantor_id,
       CAST(column5 AS VARCHAR) AS phone_number,
       CAST(column6 AS VARCHAR) AS device_id,
       CAST(column7 AS BIGINT) AS place_id,
       CAST(column8 AS DECIMAL(14, 2)) AS amount,
       CAST(column9 AS INT) AS term_months
FROM (VALUES
  (1, 1, '2026-01-10', 2, 'p1', 'd1', 7, 1000, 12),
  (2, 2, '2026-01-28', 1, 'p2', 'd1', 7, 2000, 12),
  (3, 3, '2025-12-01', NULL, 'p3', 'd2', 7, 1500, 6),
  (4, 1, '2025-11-20', 9, 'p1b', 'd3', 7, 500, 6),
  (5, 4, '2026-02-05', NULL, 'p4', 'd4', 8, 900, 6),
  (6, 5, '2024-06-01', NULL, 'p5', 'd5', 8, 700, 6));

CREATE VIEW repayments AS
SELECT CAST(column1 AS BIGINT) AS loan_id,
       CAST(column2 AS BIGINT) AS customer_id,
       CAST(column3 AS INT) AS instalment_no,
       arrow_cast(column4, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(column5 AS VARCHAR) AS event,
       arrow_cast(column6, 'Timestamp(Microsecond, Some("UTC"))') AS due_at,
       CAST(column7 AS DECIMAL(14, 2)) AS amount
FROM (VALUES
  (10, 1, 1, '2025-12-20', 'paid', '2025-12-21', 100),
  (10, 1, 1, '2025-12-21', 'due', '2025-12-21', 100),
  (10, 1, 2, '2026-01-21', 'due', '2026-01-21', 100),
  (30, 3, 1, '2025-12-20', 'due', '2025-12-20', 300),
  (30, 3, 1, '2026-01-25', 'paid', '2025-12-20', 300),
  (30, 3, 2, '2026-01-20', 'due', '2026-01-20', 300),
  (30, 3, 2, '2026-01-30', 'paid', '2026-01-20', 100),
  (30, 3, 2, '2026-02-02', 'paid', '2026-01-20', 200));

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
SELECT CAST(column1 AS VARCHAR) AS device_id,
       CAST(column2 AS BIGINT) AS customer_id,
       CAST(column3 AS VARCHAR) AS phone_number,
       arrow_cast(column4, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(column5 AS VARCHAR) AS platform
FROM (VALUES
  ('d1', 1, 'p1', '2026-01-30', 'android'),
  ('d1', NULL, NULL, '2026-01-30', 'android'),
  ('d1', 2, 'p2', '2026-01-29', 'android'),
  ('d1', 3, 'p3', '2025-12-15', 'android'),
  ('d1', 3, 'p4', '2025-12-16', 'android'),
  ('d2', 3, 'p3', '2025-01-01', 'emulator'),
  ('d2', 4, 'p4', '2026-02-01', 'android'));

CREATE VIEW places AS
SELECT CAST(NULL AS BIGINT) AS customer_id,
       CAST(NULL AS BIGINT) AS place_id,
       arrow_cast(NULL, 'Timestamp(Microsecond, Some("UTC"))') AS at,
       CAST(NULL AS DOUBLE) AS latitude,
       CAST(NULL AS DOUBLE) AS longitude
WHERE false;
