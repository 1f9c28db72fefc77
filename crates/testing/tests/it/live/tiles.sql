CREATE ENTITY phone KEY (phone VARCHAR);

CREATE STREAM call (
  phone VARCHAR, peer VARCHAR, seconds BIGINT, cost DOUBLE, at TIMESTAMP
) EVENT TIME at;

-- Of tiles alone.
CREATE FEATURE VIEW calls ENTITY phone EVENT TIME at
AS SELECT phone,
  count(*) OVER hour AS calls_1h,
  count(*) OVER days AS calls_3d,
  sum(seconds) OVER days AS seconds_3d,
  sum(seconds) OVER month AS seconds_30d,
  avg(cost) OVER month AS cost_mean_30d,
  stddev(cost) OVER month AS cost_stddev_30d,
  min(cost) OVER days AS cost_min_3d,
  max(seconds) OVER month AS seconds_max_30d,
  count(DISTINCT peer) OVER month AS peers_30d,
  first_value(peer) OVER days AS first_peer_3d,
  last_value(seconds) OVER month AS last_seconds_30d,
  count(*) FILTER (WHERE seconds > 300) OVER month AS long_calls_30d,
  approx_distinct(peer) OVER days AS peers_about_3d,
  count(*) OVER before AS calls_before,
  sum(cost) OVER ever AS cost_ever
FROM call
WINDOW
  hour AS (PARTITION BY phone ORDER BY at RANGE INTERVAL '1 hour' PRECEDING),
  days AS (PARTITION BY phone ORDER BY at RANGE INTERVAL '3 days' PRECEDING),
  month AS (PARTITION BY phone ORDER BY at RANGE INTERVAL '30 days' PRECEDING),
  before AS (PARTITION BY phone ORDER BY at
    RANGE BETWEEN INTERVAL '20 days' PRECEDING AND INTERVAL '10 days' PRECEDING),
  ever AS (PARTITION BY phone ORDER BY at);

-- Of tiles and of events.
CREATE FEATURE VIEW talk ENTITY phone EVENT TIME at
AS SELECT phone,
  sum(seconds) OVER month AS talk_30d,
  array_agg(peer) OVER latest AS latest_peers,
  max(date_part('epoch', as_of() - at)) OVER hour AS oldest_seconds_1h
FROM call
WHERE seconds > 60
WINDOW
  month AS (PARTITION BY phone ORDER BY at RANGE INTERVAL '30 days' PRECEDING),
  hour AS (PARTITION BY phone ORDER BY at RANGE INTERVAL '1 hour' PRECEDING),
  latest AS (PARTITION BY phone ORDER BY at ROWS 4 PRECEDING);
