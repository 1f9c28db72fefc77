-- Affordability: what the loan asked for would weigh, reckoned in the request.

-- An unknown income (no account, no income in 180 days) or one of 0 makes every
-- share NULL: a burden that is not known is not a light one. A term of 0 months
-- is a mistake of the request, and NULL too. Who has no debt on record owes
-- nothing: that is 0.
CREATE ON DEMAND FEATURE VIEW affordability INPUT (requested_amount DOUBLE, term_months INT)
  OWNER 'risk-data'  TAGS (topic = 'affordability')
  COMMENT 'the loan asked for against the income of the account and the instalments paid already'
AS SELECT requested_amount / nullif(account_income.income_monthly, 0)                  AS loan_to_income,
          requested_amount / nullif(term_months, 0)                                    AS instalment_asked,
          requested_amount / nullif(term_months, 0) / nullif(account_income.income_monthly, 0) AS instalment_share,
          (requested_amount / nullif(term_months, 0) + coalesce(CAST(customer_debt.instalments_monthly AS DOUBLE), 0))
            / nullif(account_income.income_monthly, 0)                                 AS instalments_share_after,
          account_income.income_monthly - requested_amount / nullif(term_months, 0)
            - coalesce(CAST(customer_debt.instalments_monthly AS DOUBLE), 0)           AS income_left
   FROM account_income, customer_debt;

COMMENT ON COLUMN affordability.loan_to_income          IS 'months of income that the loan is; interest apart';
COMMENT ON COLUMN affordability.instalment_asked        IS 'what it would cost a month; interest apart';
COMMENT ON COLUMN affordability.instalment_share        IS 'share of the monthly income that this takes';
COMMENT ON COLUMN affordability.instalments_share_after IS 'the same with the instalments of open loans';
COMMENT ON COLUMN affordability.income_left             IS 'monthly income less all instalments; less than 0 cannot be paid';
