-- Windowed views over the canonical schema.

CREATE FEATURE VIEW account_windows ENTITY account EVENT TIME at
AS SELECT account_id,
          count(*)                                          OVER d30  AS transactions_30d,
          coalesce(sum(amount) FILTER (WHERE amount > 0)    OVER d90, 0) AS credits_90d,
          avg(CAST(amount AS DOUBLE))                       OVER d90  AS amount_mean_90d,
          stddev(CAST(amount AS DOUBLE))                    OVER d90  AS amount_deviation_90d,
          count(DISTINCT counterparty)                      OVER d180 AS counterparties_180d,
          top_k(purpose, 2)                                 OVER d180 AS top_purposes_180d,
          sum(amount)                                       OVER ever AS balance,
          max(at)                                           OVER ever AS last_at,
          last_value(amount)                                OVER last_5 AS last_amount,
          array_agg(amount)                                 OVER last_5 AS last_amounts,
          count(*) OVER d30 / nullif(count(*) OVER d180, 0)            AS recent_share
   FROM transactions
   WHERE channel <> 'bank'
   WINDOW d30    AS (PARTITION BY account_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
          d90    AS (PARTITION BY account_id ORDER BY at RANGE BETWEEN INTERVAL '90 days' PRECEDING AND CURRENT ROW),
          d180   AS (PARTITION BY account_id ORDER BY at RANGE BETWEEN INTERVAL '180 days' PRECEDING AND CURRENT ROW),
          ever   AS (PARTITION BY account_id ORDER BY at),
          last_5 AS (PARTITION BY account_id ORDER BY at ROWS BETWEEN 4 PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW customer_purchase_windows ENTITY customer EVENT TIME at MAX EVENTS 200
AS SELECT customer_id,
          count(DISTINCT invoice_id) FILTER (WHERE NOT is_return) OVER m3 AS invoices_3m,
          sum(amount)                                       OVER m3   AS amount_3m,
          min(unit_price)                                   OVER d7   AS least_price_7d,
          median(CAST(amount AS DOUBLE))                    OVER m3   AS amount_median_3m,
          bool_or(is_return)                                OVER m3   AS returned_3m,
          entropy(item_id)                                  OVER m3   AS item_entropy_3m,
          decayed_sum(CAST(amount AS DOUBLE), INTERVAL '30 days') OVER ever AS recent_amount,
          first_value(item_id)                              OVER ever AS first_item,
          (date_part('epoch', as_of()) - date_part('epoch', max(at) OVER ever)) / 86400 AS days_since
   FROM purchases
   WINDOW d7   AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
          m3   AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '3 months' PRECEDING AND CURRENT ROW),
          ever AS (PARTITION BY customer_id ORDER BY at);

CREATE FEATURE VIEW phone_windows ENTITY phone EVENT TIME at
AS SELECT phone_number,
          count(*) FILTER (WHERE is_outgoing)               OVER d1   AS outgoing_1d,
          count(*)                                          OVER before AS events_before,
          count(DISTINCT other_number)                      OVER d7   AS partners_7d,
          top_share(other_number, 1)                        OVER d7   AS top_partner_share_7d,
          sum(seconds)                                      OVER d7   AS seconds_7d,
          string_agg(medium, ',')                           OVER last_3 AS last_media
   FROM phone_events
   WINDOW d1     AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
          d7     AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
          before AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND INTERVAL '1 day' PRECEDING),
          last_3 AS (PARTITION BY phone_number ORDER BY at ROWS BETWEEN 2 PRECEDING AND CURRENT ROW);

CREATE FEATURE VIEW customer_place_windows ENTITY customer EVENT TIME at
AS SELECT customer_id,
          count(DISTINCT place_id)                          OVER d30  AS places_30d,
          max(latitude) OVER d30 - min(latitude) OVER d30             AS north_south_30d,
          avg(longitude)                                    OVER d30  AS longitude_mean_30d,
          nth_value(place_id, 2)                            OVER ever AS second_place
   FROM places
   WINDOW d30  AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW),
          ever AS (PARTITION BY customer_id ORDER BY at);
