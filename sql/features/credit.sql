-- Loans and how they are repaid: arrears, days past due, roll rates, guarantees.

-- An instalment is settled when less than one unit of money is missing: banks
-- round instalments. Days late are whole days; a payment on the day itself is in time.
CREATE VIEW instalments AS
WITH dues AS (
  SELECT loan_id, customer_id, instalment_no, max(due_at) AS due_at, sum(amount) AS due_amount
  FROM repayments
  WHERE event = 'due'
  GROUP BY loan_id, customer_id, instalment_no),
payments AS (
  SELECT loan_id, instalment_no, at,
         sum(amount) OVER (PARTITION BY loan_id, instalment_no ORDER BY at) AS paid_amount
  FROM repayments
  WHERE event = 'paid')
SELECT dues.loan_id, dues.customer_id, dues.instalment_no, dues.due_at, dues.due_amount,
       coalesce(max(payments.paid_amount), 0) AS paid_amount,
       min(payments.at) FILTER (WHERE payments.paid_amount > dues.due_amount - 1) AS settled_at
FROM dues LEFT JOIN payments
  ON payments.loan_id = dues.loan_id AND payments.instalment_no = dues.instalment_no
GROUP BY dues.loan_id, dues.customer_id, dues.instalment_no, dues.due_at, dues.due_amount;

COMMENT ON VIEW instalments IS 'one row an instalment that has fallen due: when, how much, paid how much, settled when';

CREATE FEATURE VIEW loan_terms
  ENTITY loan  EVENT TIME at
  OWNER 'risk-data'  TAGS (topic = 'profile')  COMMENT 'the loan as granted'
AS SELECT loan_id, at, customer_id AS borrower_id, guarantor_id, amount, term_months, instalment
   FROM loans;

COMMENT ON COLUMN loan_terms.borrower_id  IS 'customer who borrowed';
COMMENT ON COLUMN loan_terms.guarantor_id IS 'customer who answers for it';
COMMENT ON COLUMN loan_terms.amount       IS 'amount granted';
COMMENT ON COLUMN loan_terms.term_months  IS 'months to repay it in';
COMMENT ON COLUMN loan_terms.instalment   IS 'due every month';

CREATE FEATURE VIEW loan_repayment
  ENTITY loan  REFRESH EVERY INTERVAL '1 day'
  OWNER 'collections-data'  TAGS (topic = 'repayment')  COMMENT 'how a loan is being repaid; of loans with an instalment due'
AS WITH late AS (
     SELECT *, greatest(floor((date_part('epoch', coalesce(settled_at, as_of())) - date_part('epoch', due_at)) / 86400), 0) AS days_late,
            settled_at IS NULL AS is_open
     FROM instalments)
   SELECT loan_id,
          count(*)                                        AS instalments_due,
          count(*) FILTER (WHERE days_late > 0)           AS instalments_late,
          CAST(coalesce(sum(due_amount - paid_amount) FILTER (WHERE is_open), 0) AS DECIMAL(18, 2)) AS arrears,
          CAST(coalesce(max(days_late) FILTER (WHERE is_open), 0) AS BIGINT) AS days_past_due,
          CAST(max(days_late) AS BIGINT)                  AS days_late_max,
          avg(days_late)                                  AS days_late_mean,
          CAST(sum(paid_amount) AS DOUBLE) / CAST(sum(due_amount) AS DOUBLE) AS paid_share
   FROM late
   GROUP BY loan_id;

COMMENT ON COLUMN loan_repayment.instalments_due  IS 'instalments fallen due';
COMMENT ON COLUMN loan_repayment.instalments_late IS 'of these, settled late or still open after their day';
COMMENT ON COLUMN loan_repayment.arrears          IS 'due and not paid';
COMMENT ON COLUMN loan_repayment.days_past_due    IS 'age in days of the oldest open instalment; 0 if none';
COMMENT ON COLUMN loan_repayment.days_late_max    IS 'worst days late of any instalment';
COMMENT ON COLUMN loan_repayment.days_late_mean   IS 'mean days late';
COMMENT ON COLUMN loan_repayment.paid_share       IS 'paid over due';

CREATE FEATURE VIEW customer_repayment
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'collections-data'  TAGS (topic = 'repayment')
  COMMENT 'how a borrower repays, all loans together: days past due and roll rates'
AS WITH late AS (
     SELECT *, greatest(floor((date_part('epoch', coalesce(settled_at, as_of())) - date_part('epoch', due_at)) / 86400), 0) AS days_late,
            settled_at IS NULL AS is_open
     FROM instalments)
   SELECT customer_id,
          count(DISTINCT loan_id)                         AS loans_due,
          count(*)                                        AS instalments_due,
          CAST(coalesce(sum(due_amount - paid_amount) FILTER (WHERE is_open), 0) AS DECIMAL(18, 2)) AS arrears,
          CAST(coalesce(max(days_late) FILTER (WHERE is_open), 0) AS BIGINT) AS days_past_due,
          CAST(max(days_late) AS BIGINT)                  AS days_late_max,
          CAST(max(days_late) FILTER (WHERE due_at > as_of() - INTERVAL '180 days') AS BIGINT) AS days_late_max_180d,
          CAST(count(*) FILTER (WHERE days_late > 0) AS DOUBLE) / count(*) AS late_share,
          CAST(count(*) FILTER (WHERE days_late > 30) AS DOUBLE) / nullif(count(*) FILTER (WHERE days_late > 0), 0)  AS roll_rate_1_to_30,
          CAST(count(*) FILTER (WHERE days_late > 60) AS DOUBLE) / nullif(count(*) FILTER (WHERE days_late > 30), 0) AS roll_rate_30_to_60,
          CAST(count(*) FILTER (WHERE days_late > 90) AS DOUBLE) / nullif(count(*) FILTER (WHERE days_late > 60), 0) AS roll_rate_60_to_90,
          (date_part('epoch', as_of()) - date_part('epoch', max(settled_at))) / 86400 AS days_since_settlement
   FROM late
   GROUP BY customer_id;

COMMENT ON COLUMN customer_repayment.loans_due             IS 'loans with an instalment fallen due';
COMMENT ON COLUMN customer_repayment.instalments_due       IS 'instalments fallen due';
COMMENT ON COLUMN customer_repayment.arrears               IS 'due and not paid';
COMMENT ON COLUMN customer_repayment.days_past_due         IS 'age in days of the oldest open instalment; 0 if none';
COMMENT ON COLUMN customer_repayment.days_late_max         IS 'worst days late of any instalment';
COMMENT ON COLUMN customer_repayment.days_late_max_180d    IS 'the same, of instalments due in the last 180 days';
COMMENT ON COLUMN customer_repayment.late_share            IS 'share of instalments settled late or still open after their day';
COMMENT ON COLUMN customer_repayment.roll_rate_1_to_30     IS 'of instalments late at all, the share that came to more than 30 days';
COMMENT ON COLUMN customer_repayment.roll_rate_30_to_60    IS 'of instalments more than 30 days late, the share that came to more than 60';
COMMENT ON COLUMN customer_repayment.roll_rate_60_to_90    IS 'of instalments more than 60 days late, the share that came to more than 90';
COMMENT ON COLUMN customer_repayment.days_since_settlement IS 'days since an instalment was last settled';

CREATE FEATURE VIEW customer_latest_loan
  ENTITY customer  EVENT TIME at
  OWNER 'risk-data'  TAGS (topic = 'profile')  COMMENT 'the last loan granted; of several at one time the largest'
AS SELECT customer_id, at, amount, term_months, instalment, loan_id, guarantor_id
   FROM loans;

COMMENT ON COLUMN customer_latest_loan.amount       IS 'amount granted';
COMMENT ON COLUMN customer_latest_loan.term_months  IS 'months to repay it in';
COMMENT ON COLUMN customer_latest_loan.instalment   IS 'due every month';
COMMENT ON COLUMN customer_latest_loan.loan_id      IS 'the loan';
COMMENT ON COLUMN customer_latest_loan.guarantor_id IS 'customer who answers for it';

CREATE FEATURE VIEW customer_debt
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'burden')  COMMENT 'what a borrower has taken on and still owes'
AS WITH paid AS (
     SELECT loan_id, sum(amount) AS amount
     FROM repayments
     WHERE event = 'paid'
     GROUP BY loan_id),
   owed AS (
     SELECT loans.customer_id, loans.at, loans.amount, loans.instalment,
            greatest(loans.instalment * loans.term_months - coalesce(paid.amount, 0), 0) AS outstanding
     FROM loans LEFT JOIN paid ON paid.loan_id = loans.loan_id)
   SELECT customer_id,
          count(*)                                          AS loans,
          count(*) FILTER (WHERE outstanding >= 1)          AS loans_open,
          CAST(sum(amount) AS DECIMAL(18, 2))               AS borrowed_total,
          CAST(sum(outstanding) AS DECIMAL(18, 2))          AS outstanding,
          CAST(coalesce(sum(instalment) FILTER (WHERE outstanding >= 1), 0) AS DECIMAL(18, 2)) AS instalments_monthly,
          (date_part('epoch', as_of()) - date_part('epoch', max(at))) / 86400 AS days_since_loan
   FROM owed
   GROUP BY customer_id;

COMMENT ON COLUMN customer_debt.loans               IS 'loans granted, ever';
COMMENT ON COLUMN customer_debt.loans_open          IS 'loans not paid back in full';
COMMENT ON COLUMN customer_debt.borrowed_total      IS 'amount granted, ever';
COMMENT ON COLUMN customer_debt.outstanding         IS 'instalments still to be paid, due or not';
COMMENT ON COLUMN customer_debt.instalments_monthly IS 'instalments of open loans, a month';
COMMENT ON COLUMN customer_debt.days_since_loan     IS 'days since a loan was last granted';

CREATE FEATURE VIEW customer_guarantees
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'burden')  COMMENT 'what a customer answers for; reads the repayment of the guaranteed loans'
AS SELECT loans.guarantor_id AS customer_id,
          count(*)                                  AS guaranteed_loans,
          count(DISTINCT loans.customer_id)         AS guaranteed_borrowers,
          CAST(sum(loans.amount) AS DECIMAL(18, 2)) AS guaranteed_amount,
          CAST(coalesce(sum(loan_repayment.arrears), 0) AS DECIMAL(18, 2)) AS guaranteed_arrears,
          coalesce(max(loan_repayment.days_past_due), 0) AS guaranteed_days_past_due
   FROM loans LEFT JOIN loan_repayment ON loan_repayment.loan_id = loans.loan_id
   WHERE loans.guarantor_id IS NOT NULL
   GROUP BY loans.guarantor_id;

COMMENT ON COLUMN customer_guarantees.guaranteed_loans         IS 'loans answered for';
COMMENT ON COLUMN customer_guarantees.guaranteed_borrowers     IS 'borrowers answered for';
COMMENT ON COLUMN customer_guarantees.guaranteed_amount        IS 'amount of these loans as granted';
COMMENT ON COLUMN customer_guarantees.guaranteed_arrears       IS 'arrears of these loans';
COMMENT ON COLUMN customer_guarantees.guaranteed_days_past_due IS 'worst days past due of these loans';
