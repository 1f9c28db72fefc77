-- Purchases: recency, frequency, monetary value, baskets, returned goods.

CREATE FEATURE VIEW customer_latest_invoice
  ENTITY customer  EVENT TIME at  TTL INTERVAL '1 year'
  OWNER 'marketing-data'  TAGS (topic = 'shopping')
  COMMENT 'the last invoice of goods bought; of several at one time the dearest'
AS SELECT customer_id, at,
          CAST(sum(amount) AS DECIMAL(18, 2)) AS amount,
          count(*)                            AS lines,
          CAST(sum(quantity) AS BIGINT)       AS quantity,
          invoice_id
   FROM purchases
   WHERE NOT is_return
   GROUP BY customer_id, at, invoice_id;

COMMENT ON COLUMN customer_latest_invoice.amount     IS 'amount of the invoice';
COMMENT ON COLUMN customer_latest_invoice.lines      IS 'lines on it';
COMMENT ON COLUMN customer_latest_invoice.quantity   IS 'pieces on it';
COMMENT ON COLUMN customer_latest_invoice.invoice_id IS 'its number';

CREATE FEATURE VIEW customer_shopping
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'marketing-data'  TAGS (topic = 'shopping')  COMMENT 'recency, frequency, monetary value, returned goods'
AS WITH invoices AS (
     SELECT customer_id, invoice_id, is_return,
            min(at) AS first_at, max(at) AS last_at,
            sum(amount) FILTER (WHERE at > as_of() - INTERVAL '90 days')      AS amount_90d,
            sum(amount) FILTER (WHERE at > as_of() - INTERVAL '365 days')     AS amount_365d,
            max(amount) FILTER (WHERE at > as_of() - INTERVAL '365 days')     AS dearest_365d,
            sum(unit_price) FILTER (WHERE at > as_of() - INTERVAL '365 days') AS prices_365d,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '365 days')        AS lines_365d,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '365 days' AND date_part('dow', at) IN (0, 6)) AS weekend_lines_365d
     FROM purchases
     GROUP BY customer_id, invoice_id, is_return),
   items AS (
     SELECT customer_id, count(*) AS items_365d
     FROM (SELECT DISTINCT customer_id, item_id FROM purchases WHERE NOT is_return AND at > as_of() - INTERVAL '365 days')
     GROUP BY customer_id),
   totals AS (
     SELECT customer_id,
            max(last_at) FILTER (WHERE NOT is_return)                 AS last_at,
            min(first_at) FILTER (WHERE NOT is_return)                AS first_at,
            count(amount_90d) FILTER (WHERE NOT is_return)            AS invoices_90d,
            count(amount_365d) FILTER (WHERE NOT is_return)           AS invoices_365d,
            sum(amount_90d) FILTER (WHERE NOT is_return)              AS spent_90d,
            sum(amount_365d) FILTER (WHERE NOT is_return)             AS spent_365d,
            count(DISTINCT date_trunc('month', last_at)) FILTER (WHERE NOT is_return AND amount_365d IS NOT NULL) AS active_months_365d,
            max(dearest_365d) FILTER (WHERE NOT is_return)            AS dearest_line_365d,
            sum(prices_365d) FILTER (WHERE NOT is_return)             AS prices_365d,
            sum(lines_365d) FILTER (WHERE NOT is_return)              AS lines_365d,
            sum(weekend_lines_365d) FILTER (WHERE NOT is_return)      AS weekend_lines_365d,
            count(amount_365d) FILTER (WHERE is_return)               AS return_invoices_365d,
            coalesce(sum(-amount_365d) FILTER (WHERE is_return), 0)   AS returned_365d
     FROM invoices
     GROUP BY customer_id)
   SELECT totals.customer_id,
          (date_part('epoch', as_of()) - date_part('epoch', last_at)) / 86400  AS days_since_purchase,
          (date_part('epoch', as_of()) - date_part('epoch', first_at)) / 86400 AS days_since_first_purchase,
          invoices_90d,
          invoices_365d,
          CAST(coalesce(spent_90d, 0) AS DECIMAL(18, 2))                       AS spent_90d,
          CAST(coalesce(spent_365d, 0) AS DECIMAL(18, 2))                      AS spent_365d,
          coalesce(items_365d, 0)                                              AS items_365d,
          active_months_365d,
          CAST(spent_365d AS DOUBLE) / nullif(invoices_365d, 0)                AS invoice_mean_365d,
          dearest_line_365d,
          CAST(prices_365d AS DOUBLE) / nullif(lines_365d, 0)                  AS unit_price_mean_365d,
          CAST(spent_90d AS DOUBLE) * 365 / 90 / nullif(CAST(spent_365d AS DOUBLE), 0) AS spending_trend,
          return_invoices_365d,
          CAST(returned_365d AS DECIMAL(18, 2))                                AS returned_365d,
          CAST(returned_365d AS DOUBLE) / nullif(CAST(spent_365d AS DOUBLE), 0) AS returned_share_365d,
          CAST(weekend_lines_365d AS DOUBLE) / nullif(lines_365d, 0)           AS weekend_share_365d
   FROM totals LEFT JOIN items ON items.customer_id = totals.customer_id;

COMMENT ON COLUMN customer_shopping.days_since_purchase       IS 'recency: days since goods were last bought';
COMMENT ON COLUMN customer_shopping.days_since_first_purchase IS 'days since goods were first bought';
COMMENT ON COLUMN customer_shopping.invoices_90d              IS 'frequency: invoices of goods bought, 90 days';
COMMENT ON COLUMN customer_shopping.invoices_365d             IS 'frequency: invoices of goods bought, 365 days';
COMMENT ON COLUMN customer_shopping.spent_90d                 IS 'monetary value: amount bought for, 90 days';
COMMENT ON COLUMN customer_shopping.spent_365d                IS 'monetary value: amount bought for, 365 days';
COMMENT ON COLUMN customer_shopping.items_365d                IS 'distinct items bought, 365 days';
COMMENT ON COLUMN customer_shopping.active_months_365d        IS 'calendar months with a purchase, 365 days';
COMMENT ON COLUMN customer_shopping.invoice_mean_365d         IS 'mean amount of an invoice, 365 days';
COMMENT ON COLUMN customer_shopping.dearest_line_365d         IS 'largest amount of one line, 365 days';
COMMENT ON COLUMN customer_shopping.unit_price_mean_365d      IS 'mean price of a piece over the lines bought, 365 days';
COMMENT ON COLUMN customer_shopping.spending_trend            IS 'amount a day of the last 90 days over that of 365 days; NULL without a purchase in 90 days';
COMMENT ON COLUMN customer_shopping.return_invoices_365d      IS 'invoices that took goods back, 365 days';
COMMENT ON COLUMN customer_shopping.returned_365d             IS 'amount of returned goods, 365 days';
COMMENT ON COLUMN customer_shopping.returned_share_365d       IS 'amount returned over amount bought, 365 days';
COMMENT ON COLUMN customer_shopping.weekend_share_365d        IS 'share of lines bought on Saturday or Sunday, UTC, 365 days';

CREATE FEATURE VIEW customer_shopping_rhythm
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'marketing-data'  TAGS (topic = 'shopping')  COMMENT 'regularity of shopping, over days with a purchase'
AS WITH days AS (
     SELECT customer_id, date_trunc('day', at) AS day
     FROM purchases
     WHERE NOT is_return
     GROUP BY customer_id, date_trunc('day', at)),
   gaps AS (
     SELECT customer_id,
            (date_part('epoch', day) - date_part('epoch', lag(day) OVER (PARTITION BY customer_id ORDER BY day))) / 86400 AS gap_days
     FROM days)
   SELECT customer_id,
          count(*)                            AS shopping_days,
          avg(gap_days)                       AS gap_mean_days,
          stddev(gap_days)                    AS gap_stddev_days,
          max(gap_days)                       AS gap_max_days
   FROM gaps
   GROUP BY customer_id;

COMMENT ON COLUMN customer_shopping_rhythm.shopping_days   IS 'days with a purchase, ever';
COMMENT ON COLUMN customer_shopping_rhythm.gap_mean_days   IS 'mean days from one to the next';
COMMENT ON COLUMN customer_shopping_rhythm.gap_stddev_days IS 'sample standard deviation of these days';
COMMENT ON COLUMN customer_shopping_rhythm.gap_max_days    IS 'longest pause';
