-- Neighbourhoods: how hot the surroundings of a place are, whatever its villages
-- are called.
--
-- Views of a cell hold counts, never shares: what is folded over a ring of cells
-- must add up. The share is taken once, of the sums. Cells are of resolution 7
-- everywhere (see ../streams.sql): a cell of another resolution is another key.

CREATE FEATURE VIEW cell_velocity
  ENTITY cell  EVENT TIME at
  OWNER 'fraud-data'  TAGS (topic = 'neighbourhood')
  COMMENT 'applications handed in from a cell, live'
AS SELECT cell,
          count(*) OVER m10                 AS applications_10m,
          count(*) OVER h1                  AS applications_1h,
          count(*) OVER d1                  AS applications_1d,
          count(*) OVER d7                  AS applications_7d,
          count(DISTINCT device_id) OVER d7 AS devices_7d,
          coalesce(sum(amount) OVER d7, 0)  AS amount_7d
   FROM application_cells
   WINDOW m10 AS (PARTITION BY cell ORDER BY at RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
          h1  AS (PARTITION BY cell ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
          d1  AS (PARTITION BY cell ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
          d7  AS (PARTITION BY cell ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

COMMENT ON COLUMN cell_velocity.applications_10m IS 'applications from the cell, 10 minutes';
COMMENT ON COLUMN cell_velocity.applications_1h  IS 'applications from the cell, 1 hour';
COMMENT ON COLUMN cell_velocity.applications_1d  IS 'applications from the cell, 24 hours';
COMMENT ON COLUMN cell_velocity.applications_7d  IS 'applications from the cell, 7 days';
COMMENT ON COLUMN cell_velocity.devices_7d       IS 'distinct devices applied from, 7 days';
COMMENT ON COLUMN cell_velocity.amount_7d        IS 'amount asked for, 7 days; 0 without any';

CREATE FEATURE VIEW cell_standing
  ENTITY cell  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'neighbourhood')
  COMMENT 'how the people of a cell repay; a customer is of the cell with most sightings in 90 days, then the latest'
AS WITH sightings AS (
     SELECT customer_id, h3_cell(latitude, longitude, 7) AS cell, count(*) AS sightings, max(at) AS last_at
     FROM places
     WHERE at > as_of() - INTERVAL '90 days'
     GROUP BY customer_id, h3_cell(latitude, longitude, 7)),
   homes AS (
     SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY sightings DESC, last_at DESC, cell) AS cell_rank
     FROM sightings
     WHERE cell IS NOT NULL),
   borrowers AS (
     SELECT customer_id,
            coalesce(max(floor((date_part('epoch', as_of()) - date_part('epoch', due_at)) / 86400)) FILTER (WHERE settled_at IS NULL), 0) AS days_past_due
     FROM instalments
     GROUP BY customer_id)
   SELECT homes.cell,
          count(*)                                                  AS residents,
          count(borrowers.customer_id)                              AS borrowers,
          count(*) FILTER (WHERE borrowers.days_past_due > 0)       AS borrowers_overdue,
          count(*) FILTER (WHERE borrowers.days_past_due > 30)      AS borrowers_overdue_30
   FROM homes LEFT JOIN borrowers ON borrowers.customer_id = homes.customer_id
   WHERE homes.cell_rank = 1
   GROUP BY homes.cell;

COMMENT ON COLUMN cell_standing.residents            IS 'customers of the cell';
COMMENT ON COLUMN cell_standing.borrowers            IS 'of these, with an instalment fallen due';
COMMENT ON COLUMN cell_standing.borrowers_overdue    IS 'of these, past due today';
COMMENT ON COLUMN cell_standing.borrowers_overdue_30 IS 'the same, more than 30 days past due';

CREATE ON DEMAND FEATURE VIEW neighbourhood_heat INPUT (lat DOUBLE, lon DOUBLE)
  OWNER 'risk-data'  TAGS (topic = 'neighbourhood')
  COMMENT 'who applies and who is overdue around a place: its cell and the six around it'
AS SELECT sum(near.applications_1h)                                 AS applications_1h,
          sum(near.applications_1d)                                 AS applications_1d,
          sum(near.applications_7d)                                 AS applications_7d,
          -- Nobody borrows around here: no share, not a good one.
          CAST(sum(people.borrowers_overdue) AS DOUBLE)
            / nullif(sum(people.borrowers), 0)                      AS overdue_share,
          -- No one lives here: applications per head have no meaning.
          CAST(sum(near.applications_7d) AS DOUBLE)
            / nullif(sum(people.residents), 0)                      AS applications_per_resident_7d
   FROM cell_velocity AS near   KEY (cell => EACH h3_ring(h3_cell(input.lat, input.lon, 7), 1)),
        cell_standing AS people KEY (cell => EACH h3_ring(h3_cell(input.lat, input.lon, 7), 1));

COMMENT ON COLUMN neighbourhood_heat.applications_1h              IS 'applications from around the place, 1 hour; NULL without a place';
COMMENT ON COLUMN neighbourhood_heat.applications_1d              IS 'the same, 24 hours';
COMMENT ON COLUMN neighbourhood_heat.applications_7d              IS 'the same, 7 days';
COMMENT ON COLUMN neighbourhood_heat.overdue_share                IS 'share of the borrowers around who are past due';
COMMENT ON COLUMN neighbourhood_heat.applications_per_resident_7d IS 'applications over the customers who live around: a village that borrows together';
