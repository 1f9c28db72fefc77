-- Accounts: balance, flow of money, income, obligations.
--
-- Sums of money are DECIMAL and exact; means, shares and deviations are DOUBLE.
-- "Nd" is the N days before the time of the value, that time included.

CREATE VIEW account_days AS
SELECT account_id, at,
       sum(amount)              AS net,
       sum(greatest(amount, 0)) AS credits,
       count(*)                 AS transactions
FROM transactions
GROUP BY account_id, at;

COMMENT ON VIEW account_days IS 'movements of an account at one time, added up: equal times have no order';

CREATE FEATURE VIEW account_profile
  ENTITY account  EVENT TIME at
  OWNER 'core-banking'  TAGS (topic = 'profile')  COMMENT 'the account as opened'
AS SELECT account_id, at, customer_id AS owner_id, place_id AS branch_place_id, statement_frequency, at AS opened_at
   FROM accounts;

COMMENT ON COLUMN account_profile.owner_id            IS 'customer who owns the account';
COMMENT ON COLUMN account_profile.branch_place_id     IS 'village or district of the branch';
COMMENT ON COLUMN account_profile.statement_frequency IS 'how often a statement is sent';
COMMENT ON COLUMN account_profile.opened_at           IS 'when the account was opened';

CREATE FEATURE VIEW account_balance
  ENTITY account  EVENT TIME at
  OWNER 'core-banking'  TAGS (topic = 'balance')  COMMENT 'running balance, from the first movement on'
AS SELECT account_id, at,
          CAST(balance AS DECIMAL(18, 2))                      AS balance,
          CAST(min(balance) OVER so_far AS DECIMAL(18, 2))     AS lowest_balance,
          CAST(credits_total AS DECIMAL(18, 2))                AS credits_total,
          CAST(credits_total - balance AS DECIMAL(18, 2))      AS debits_total,
          CAST(transactions_total AS BIGINT)                   AS transactions_total
   FROM (SELECT account_id, at,
                sum(net)          OVER so_far AS balance,
                sum(credits)      OVER so_far AS credits_total,
                sum(transactions) OVER so_far AS transactions_total
         FROM account_days
         WINDOW so_far AS (PARTITION BY account_id ORDER BY at ROWS UNBOUNDED PRECEDING))
   WINDOW so_far AS (PARTITION BY account_id ORDER BY at ROWS UNBOUNDED PRECEDING);

COMMENT ON COLUMN account_balance.balance            IS 'balance after the movements of the last booked time';
COMMENT ON COLUMN account_balance.lowest_balance     IS 'lowest balance so far';
COMMENT ON COLUMN account_balance.credits_total      IS 'money in, ever';
COMMENT ON COLUMN account_balance.debits_total       IS 'money out, ever';
COMMENT ON COLUMN account_balance.transactions_total IS 'movements, ever';

CREATE FEATURE VIEW account_latest_credit
  ENTITY account  EVENT TIME at  TTL INTERVAL '180 days'
  OWNER 'risk-data'  TAGS (topic = 'income')
  COMMENT 'the last money that came in; of several at one time the largest'
AS SELECT account_id, at, amount, purpose, channel
   FROM transactions
   WHERE amount > 0 AND channel <> 'bank';

COMMENT ON COLUMN account_latest_credit.amount  IS 'how much came in';
COMMENT ON COLUMN account_latest_credit.purpose IS 'what for, if said';
COMMENT ON COLUMN account_latest_credit.channel IS 'cash or transfer';

CREATE FEATURE VIEW account_flow
  ENTITY account  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'activity')  COMMENT 'recency, frequency and amount of movements'
AS WITH parties AS (
     SELECT account_id, counterparty, max(at) AS last_at,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '30 days')                          AS transactions_30d,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '90 days')                          AS transactions_90d,
            sum(greatest(amount, 0))  FILTER (WHERE at > as_of() - INTERVAL '30 days')         AS credits_30d,
            sum(greatest(amount, 0))  FILTER (WHERE at > as_of() - INTERVAL '90 days')         AS credits_90d,
            sum(greatest(-amount, 0)) FILTER (WHERE at > as_of() - INTERVAL '30 days')         AS debits_30d,
            sum(greatest(-amount, 0)) FILTER (WHERE at > as_of() - INTERVAL '90 days')         AS debits_90d,
            count(*) FILTER (WHERE amount < 0 AND at > as_of() - INTERVAL '90 days')           AS debit_count_90d,
            max(-amount) FILTER (WHERE amount < 0 AND at > as_of() - INTERVAL '90 days')       AS largest_debit_90d,
            sum(greatest(-amount, 0)) FILTER (WHERE channel = 'cash' AND at > as_of() - INTERVAL '90 days') AS cash_debits_90d
     FROM transactions
     GROUP BY account_id, counterparty)
   SELECT account_id,
          (date_part('epoch', as_of()) - date_part('epoch', max(last_at))) / 86400 AS days_since_transaction,
          CAST(sum(transactions_30d) AS BIGINT)                         AS transactions_30d,
          CAST(sum(transactions_90d) AS BIGINT)                         AS transactions_90d,
          CAST(coalesce(sum(credits_30d), 0) AS DECIMAL(18, 2))         AS credits_30d,
          CAST(coalesce(sum(credits_90d), 0) AS DECIMAL(18, 2))         AS credits_90d,
          CAST(coalesce(sum(debits_30d), 0) AS DECIMAL(18, 2))          AS debits_30d,
          CAST(coalesce(sum(debits_90d), 0) AS DECIMAL(18, 2))          AS debits_90d,
          max(largest_debit_90d)                                        AS largest_debit_90d,
          CAST(sum(debits_90d) AS DOUBLE) / nullif(sum(debit_count_90d), 0) AS debit_mean_90d,
          CAST(coalesce(sum(cash_debits_90d), 0) AS DOUBLE) / nullif(CAST(sum(debits_90d) AS DOUBLE), 0) AS cash_share_90d,
          count(counterparty) FILTER (WHERE transactions_90d > 0)       AS counterparties_90d
   FROM parties
   GROUP BY account_id;

COMMENT ON COLUMN account_flow.days_since_transaction IS 'days since the last movement';
COMMENT ON COLUMN account_flow.transactions_30d       IS 'movements, 30 days';
COMMENT ON COLUMN account_flow.transactions_90d       IS 'movements, 90 days';
COMMENT ON COLUMN account_flow.credits_30d            IS 'money in, 30 days';
COMMENT ON COLUMN account_flow.credits_90d            IS 'money in, 90 days';
COMMENT ON COLUMN account_flow.debits_30d             IS 'money out, 30 days';
COMMENT ON COLUMN account_flow.debits_90d             IS 'money out, 90 days';
COMMENT ON COLUMN account_flow.largest_debit_90d      IS 'largest single amount out, 90 days';
COMMENT ON COLUMN account_flow.debit_mean_90d         IS 'mean amount out, 90 days';
COMMENT ON COLUMN account_flow.cash_share_90d         IS 'share of money out that left as cash, 90 days; NULL if none left';
COMMENT ON COLUMN account_flow.counterparties_90d     IS 'distinct other accounts, 90 days';

CREATE FEATURE VIEW account_balance_90d
  ENTITY account  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'balance')
  COMMENT 'level, volatility and trend of the balance over 90 days; of accounts with movements in them'
AS WITH balances AS (
     SELECT account_id, at, CAST(sum(net) OVER (PARTITION BY account_id ORDER BY at ROWS UNBOUNDED PRECEDING) AS DECIMAL(18, 2)) AS balance
     FROM account_days),
   held AS (
     SELECT account_id, balance, greatest(at, as_of() - INTERVAL '90 days') AS since,
            lead(at, 1, as_of()) OVER (PARTITION BY account_id ORDER BY at) AS until,
            at > as_of() - INTERVAL '90 days' AS is_recent
     FROM balances),
   spans AS (
     SELECT account_id, CAST(balance AS DOUBLE) AS balance, is_recent,
            (date_part('epoch', since) - date_part('epoch', as_of())) / 86400 AS day,
            (date_part('epoch', until) - date_part('epoch', since)) / 86400   AS days
     FROM held
     WHERE until > as_of() - INTERVAL '90 days' OR is_recent)
   SELECT account_id,
          sum(balance * days) / nullif(sum(days), 0)                  AS balance_mean_90d,
          min(balance)                                                AS balance_min_90d,
          max(balance)                                                AS balance_max_90d,
          stddev(balance) FILTER (WHERE is_recent)                    AS balance_stddev_90d,
          regr_slope(balance, day) FILTER (WHERE is_recent)           AS balance_trend_90d,
          coalesce(sum(days) FILTER (WHERE balance < 0), 0)           AS days_overdrawn_90d
   FROM spans
   GROUP BY account_id
   HAVING count(*) FILTER (WHERE is_recent) > 0;

COMMENT ON COLUMN account_balance_90d.balance_mean_90d   IS 'mean balance over time, 90 days or since the first movement';
COMMENT ON COLUMN account_balance_90d.balance_min_90d    IS 'lowest balance held, 90 days';
COMMENT ON COLUMN account_balance_90d.balance_max_90d    IS 'highest balance held, 90 days';
COMMENT ON COLUMN account_balance_90d.balance_stddev_90d IS 'sample standard deviation of the balance after each time of movement, 90 days';
COMMENT ON COLUMN account_balance_90d.balance_trend_90d  IS 'slope of those balances over time, money a day';
COMMENT ON COLUMN account_balance_90d.days_overdrawn_90d IS 'days with a balance below zero, 90 days';

CREATE FEATURE VIEW account_income
  ENTITY account  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'income')
  COMMENT 'money in that the bank did not book itself: how much, how regular'
AS WITH income AS (
     SELECT account_id, at, sum(amount) AS amount,
            coalesce(sum(amount) FILTER (WHERE purpose IN ('salary', 'pension')), 0) AS regular,
            coalesce(sum(amount) FILTER (WHERE channel = 'cash'), 0) AS cash
     FROM transactions
     WHERE amount > 0 AND channel <> 'bank' AND at > as_of() - INTERVAL '180 days'
     GROUP BY account_id, at),
   gaps AS (
     SELECT *, (date_part('epoch', at) - date_part('epoch', lag(at) OVER (PARTITION BY account_id ORDER BY at))) / 86400 AS gap_days
     FROM income)
   SELECT account_id,
          CAST(sum(amount) AS DECIMAL(18, 2))                                  AS income_180d,
          CAST(sum(amount) AS DOUBLE) / 6                                      AS income_monthly,
          CAST(sum(amount) FILTER (WHERE at > as_of() - INTERVAL '30 days') AS DOUBLE) / (CAST(sum(amount) AS DOUBLE) / 6) AS income_trend,
          CAST(count(DISTINCT date_trunc('month', at)) AS BIGINT)              AS income_months_180d,
          CAST(sum(regular) AS DOUBLE) / CAST(sum(amount) AS DOUBLE)           AS regular_income_share_180d,
          CAST(sum(cash) AS DOUBLE) / CAST(sum(amount) AS DOUBLE)              AS cash_income_share_180d,
          stddev(CAST(amount AS DOUBLE)) / avg(CAST(amount AS DOUBLE))         AS income_variation_180d,
          avg(gap_days)                                                        AS income_gap_mean_days,
          stddev(gap_days)                                                     AS income_gap_stddev_days,
          (date_part('epoch', as_of()) - date_part('epoch', max(at))) / 86400  AS days_since_income
   FROM gaps
   GROUP BY account_id;

COMMENT ON COLUMN account_income.income_180d               IS 'money in, 180 days';
COMMENT ON COLUMN account_income.income_monthly            IS 'money in, 30 days, on average over 180 days';
COMMENT ON COLUMN account_income.income_trend              IS 'money in of the last 30 days over income_monthly; NULL if none came';
COMMENT ON COLUMN account_income.income_months_180d        IS 'calendar months with income, 180 days';
COMMENT ON COLUMN account_income.regular_income_share_180d IS 'share of salary and pension';
COMMENT ON COLUMN account_income.cash_income_share_180d    IS 'share paid in as cash';
COMMENT ON COLUMN account_income.income_variation_180d     IS 'standard deviation over mean of the amounts that came in at one time';
COMMENT ON COLUMN account_income.income_gap_mean_days      IS 'mean days from one income to the next';
COMMENT ON COLUMN account_income.income_gap_stddev_days    IS 'sample standard deviation of these days: regularity of income';
COMMENT ON COLUMN account_income.days_since_income         IS 'days since the last income';

CREATE FEATURE VIEW account_obligations
  ENTITY account  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'burden')
  COMMENT 'what has to be paid every month, and what was charged for not paying'
AS WITH sums AS (
     SELECT account_id,
            coalesce(sum(-amount) FILTER (WHERE purpose = 'loan payment'), 0) AS loan_payments,
            coalesce(sum(-amount) FILTER (WHERE purpose = 'household'), 0)    AS household,
            coalesce(sum(-amount) FILTER (WHERE purpose = 'insurance'), 0)    AS insurance,
            coalesce(sum(-amount) FILTER (WHERE purpose = 'fee'), 0)          AS fees,
            coalesce(sum(-amount) FILTER (WHERE purpose = 'penalty interest'), 0) AS penalty,
            count(*) FILTER (WHERE purpose = 'penalty interest')              AS penalties,
            max(at) FILTER (WHERE purpose = 'penalty interest')               AS last_penalty_at,
            coalesce(sum(amount) FILTER (WHERE amount > 0 AND channel <> 'bank'), 0) AS income
     FROM transactions
     WHERE at > as_of() - INTERVAL '180 days'
     GROUP BY account_id)
   SELECT account_id,
          CAST(loan_payments AS DECIMAL(18, 2)) AS loan_payments_180d,
          CAST(household AS DECIMAL(18, 2))     AS household_180d,
          CAST(insurance AS DECIMAL(18, 2))     AS insurance_180d,
          CAST(fees AS DECIMAL(18, 2))          AS fees_180d,
          CAST(penalty AS DECIMAL(18, 2))       AS penalty_interest_180d,
          penalties                             AS penalty_interest_count_180d,
          (date_part('epoch', as_of()) - date_part('epoch', last_penalty_at)) / 86400 AS days_since_penalty_interest,
          CAST(loan_payments AS DOUBLE) / nullif(CAST(income AS DOUBLE), 0) AS instalment_burden_180d,
          CAST(loan_payments + household + insurance AS DOUBLE) / nullif(CAST(income AS DOUBLE), 0) AS obligation_burden_180d
   FROM sums;

COMMENT ON COLUMN account_obligations.loan_payments_180d          IS 'loan instalments paid, 180 days';
COMMENT ON COLUMN account_obligations.household_180d              IS 'household payments, 180 days';
COMMENT ON COLUMN account_obligations.insurance_180d              IS 'insurance premiums, 180 days';
COMMENT ON COLUMN account_obligations.fees_180d                   IS 'fees, 180 days';
COMMENT ON COLUMN account_obligations.penalty_interest_180d       IS 'penalty interest for a negative balance, 180 days';
COMMENT ON COLUMN account_obligations.penalty_interest_count_180d IS 'how often penalty interest was charged, 180 days';
COMMENT ON COLUMN account_obligations.days_since_penalty_interest IS 'days since penalty interest was last charged; NULL if not in 180 days';
COMMENT ON COLUMN account_obligations.instalment_burden_180d      IS 'loan instalments over income, 180 days; NULL without income';
COMMENT ON COLUMN account_obligations.obligation_burden_180d      IS 'loan, household and insurance payments over income, 180 days';
