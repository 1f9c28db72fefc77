-- Places and devices: movement of customers, heat of villages, sharing of handsets.
--
-- Distances are great-circle kilometres by the haversine formula on a sphere
-- of 6371.0088 km (mean earth radius, IUGG).

CREATE VIEW movements AS
WITH steps AS (
  SELECT *, lag(at) OVER step AS from_at, lag(place_id) OVER step AS from_place_id,
         lag(latitude) OVER step AS from_latitude, lag(longitude) OVER step AS from_longitude
  FROM places
  WINDOW step AS (PARTITION BY customer_id ORDER BY at, place_id, latitude, longitude))
SELECT customer_id, place_id, at, latitude, longitude, from_place_id,
       (date_part('epoch', at) - date_part('epoch', from_at)) / 3600 AS hours,
       -- least() passes over NULL: the first sighting has no distance.
       CASE WHEN from_at IS NOT NULL THEN
         2 * 6371.0088 * asin(least(1.0, sqrt(
           power(sin(radians(latitude - from_latitude) / 2), 2)
           + cos(radians(latitude)) * cos(radians(from_latitude)) * power(sin(radians(longitude - from_longitude) / 2), 2))))
       END AS km
FROM steps;

COMMENT ON VIEW movements IS 'sightings of a customer, each with hours and kilometres since the one before';

CREATE FEATURE VIEW customer_latest_place
  ENTITY customer  EVENT TIME at  TTL INTERVAL '30 days'
  OWNER 'fraud-data'  TAGS (topic = 'place', pii = 'yes')  COMMENT 'where the customer was last seen'
AS SELECT customer_id, at, place_id, latitude, longitude
   FROM places;

COMMENT ON COLUMN customer_latest_place.place_id  IS 'the place';
COMMENT ON COLUMN customer_latest_place.latitude  IS 'degrees';
COMMENT ON COLUMN customer_latest_place.longitude IS 'degrees';

CREATE FEATURE VIEW customer_movement
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'place')  COMMENT 'how widely a customer moves'
AS SELECT customer_id,
          count(*)                                          AS sightings_90d,
          count(DISTINCT place_id)                          AS places_90d,
          coalesce(sum(km), 0)                              AS travelled_km_90d,
          max(km)                                           AS longest_step_km_90d,
          max(km / hours) FILTER (WHERE hours > 0.25)       AS fastest_step_kmh_90d,
          2 * 6371.0088 * asin(least(1.0, sqrt(
            power(sin(radians(max(latitude) - min(latitude)) / 2), 2)
            + cos(radians(max(latitude))) * cos(radians(min(latitude)))
              * power(sin(radians(max(longitude) - min(longitude)) / 2), 2)))) AS extent_km_90d,
          (date_part('epoch', as_of()) - date_part('epoch', max(at))) / 86400  AS days_since_sighting
   FROM movements
   WHERE at > as_of() - INTERVAL '90 days'
   GROUP BY customer_id;

COMMENT ON COLUMN customer_movement.sightings_90d        IS 'sightings, 90 days';
COMMENT ON COLUMN customer_movement.places_90d           IS 'distinct places, 90 days';
COMMENT ON COLUMN customer_movement.travelled_km_90d     IS 'distance from sighting to sighting, added up, 90 days';
COMMENT ON COLUMN customer_movement.longest_step_km_90d  IS 'longest distance between two sightings, 90 days';
COMMENT ON COLUMN customer_movement.fastest_step_kmh_90d IS 'greatest speed between two sightings a quarter of an hour apart or more: a shared login travels fast';
COMMENT ON COLUMN customer_movement.extent_km_90d        IS 'diagonal of the box around all sightings, 90 days';
COMMENT ON COLUMN customer_movement.days_since_sighting  IS 'days since the last sighting';

CREATE FEATURE VIEW customer_dwelling
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'place', pii = 'yes')
  COMMENT 'where a customer dwells: hours between two sightings in a row at one place, at most 24 of each pause'
AS WITH dwelling AS (
     SELECT customer_id, place_id, count(*) AS sightings,
            coalesce(sum(least(hours, 24.0)) FILTER (WHERE from_place_id = place_id), 0) AS hours
     FROM movements
     WHERE at > as_of() - INTERVAL '90 days'
     GROUP BY customer_id, place_id),
   ranked AS (
     SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY hours DESC, sightings DESC, place_id) AS place_rank,
            sum(hours) OVER (PARTITION BY customer_id)     AS hours_all,
            sum(sightings) OVER (PARTITION BY customer_id) AS sightings_all
     FROM dwelling)
   SELECT ranked.customer_id, ranked.place_id AS dwell_place_id,
          ranked.hours AS dwell_hours_90d,
          ranked.hours / nullif(ranked.hours_all, 0) AS dwell_share_90d,
          CAST(ranked.sightings AS DOUBLE) / CAST(ranked.sightings_all AS DOUBLE) AS sighting_share_90d
   FROM ranked
   WHERE place_rank = 1;

COMMENT ON COLUMN customer_dwelling.dwell_place_id     IS 'place with the most hours; then the most sightings; then the least number';
COMMENT ON COLUMN customer_dwelling.dwell_hours_90d    IS 'hours there, 90 days';
COMMENT ON COLUMN customer_dwelling.dwell_share_90d    IS 'these hours over those at all places';
COMMENT ON COLUMN customer_dwelling.sighting_share_90d IS 'sightings there over all sightings, 90 days';

CREATE FEATURE VIEW place_heat
  ENTITY place  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'place')
  COMMENT 'how hot a village is: who applies, who borrows, who stands for whom, who is overdue'
AS WITH borrowers AS (
     SELECT customer_id, CAST(max(greatest(floor((date_part('epoch', as_of()) - date_part('epoch', due_at)) / 86400), 0)) FILTER (WHERE settled_at IS NULL) AS BIGINT) AS days_past_due
     FROM instalments
     GROUP BY customer_id),
   applied AS (
     SELECT applications.*, loans.loan_id, borrowers.days_past_due, borrowers.customer_id AS borrower_id, guarantors.customer_id AS fellow_id
     FROM applications
       LEFT JOIN loans ON loans.application_id = applications.application_id
       LEFT JOIN borrowers ON borrowers.customer_id = loans.customer_id
       LEFT JOIN (SELECT DISTINCT customer_id, place_id FROM applications) AS guarantors
         ON guarantors.customer_id = applications.guarantor_id AND guarantors.place_id = applications.place_id)
   SELECT place_id,
          count(DISTINCT application_id) FILTER (WHERE at > as_of() - INTERVAL '7 days')  AS applications_7d,
          count(DISTINCT application_id) FILTER (WHERE at > as_of() - INTERVAL '30 days') AS applications_30d,
          count(DISTINCT application_id) FILTER (WHERE at > as_of() - INTERVAL '90 days') AS applications_90d,
          count(DISTINCT customer_id) FILTER (WHERE at > as_of() - INTERVAL '90 days')    AS applicants_90d,
          count(DISTINCT device_id) FILTER (WHERE at > as_of() - INTERVAL '90 days')      AS application_devices_90d,
          CAST(count(DISTINCT application_id) FILTER (WHERE at > as_of() - INTERVAL '30 days') AS DOUBLE) * 3
            / nullif(count(DISTINCT application_id) FILTER (WHERE at > as_of() - INTERVAL '90 days'), 0) AS application_surge,
          count(DISTINCT customer_id) FILTER (WHERE loan_id IS NOT NULL)                  AS borrowers,
          CAST(count(DISTINCT borrower_id) FILTER (WHERE days_past_due > 0) AS DOUBLE)
            / nullif(count(DISTINCT borrower_id), 0)                                      AS overdue_share,
          CAST(count(DISTINCT borrower_id) FILTER (WHERE days_past_due > 30) AS DOUBLE)
            / nullif(count(DISTINCT borrower_id), 0)                                      AS overdue_30_share,
          CAST(count(DISTINCT application_id) FILTER (WHERE fellow_id IS NOT NULL) AS DOUBLE)
            / count(DISTINCT application_id)                                              AS fellow_guarantor_share
   FROM applied
   GROUP BY place_id;

COMMENT ON COLUMN place_heat.applications_7d         IS 'applications, 7 days';
COMMENT ON COLUMN place_heat.applications_30d        IS 'applications, 30 days';
COMMENT ON COLUMN place_heat.applications_90d        IS 'applications, 90 days';
COMMENT ON COLUMN place_heat.applicants_90d          IS 'distinct applicants, 90 days';
COMMENT ON COLUMN place_heat.application_devices_90d IS 'distinct devices applied from, 90 days';
COMMENT ON COLUMN place_heat.application_surge       IS 'applications of 30 days over a third of those of 90 days';
COMMENT ON COLUMN place_heat.borrowers               IS 'distinct applicants who got a loan, ever';
COMMENT ON COLUMN place_heat.overdue_share           IS 'share of borrowers, with an instalment due, who are past due';
COMMENT ON COLUMN place_heat.overdue_30_share        IS 'the same, more than 30 days past due';
COMMENT ON COLUMN place_heat.fellow_guarantor_share  IS 'share of applications whose guarantor applied from the same place: a village that borrows together';

CREATE FEATURE VIEW device_latest_user
  ENTITY device  EVENT TIME at  TTL INTERVAL '90 days'
  OWNER 'fraud-data'  TAGS (topic = 'device', pii = 'yes')  COMMENT 'who last used the device'
AS SELECT device_id, at, customer_id, phone_number, platform
   FROM devices;

COMMENT ON COLUMN device_latest_user.customer_id  IS 'the customer';
COMMENT ON COLUMN device_latest_user.phone_number IS 'number of the SIM';
COMMENT ON COLUMN device_latest_user.platform     IS 'android, ios or emulator';

CREATE FEATURE VIEW device_sharing
  ENTITY device  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'device')  COMMENT 'how many people and numbers share a device'
AS WITH users AS (
     SELECT device_id, customer_id, min(at) AS first_at, max(at) AS last_at,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '90 days') AS sightings,
            bool_or(platform = 'emulator')                            AS is_emulator
     FROM devices
     GROUP BY device_id, customer_id),
   numbers AS (
     SELECT device_id, count(*) AS numbers
     FROM (SELECT DISTINCT device_id, phone_number FROM devices
           WHERE phone_number IS NOT NULL AND at > as_of() - INTERVAL '90 days')
     GROUP BY device_id)
   SELECT users.device_id,
          count(customer_id) FILTER (WHERE last_at > as_of() - INTERVAL '7 days')  AS customers_7d,
          count(customer_id) FILTER (WHERE last_at > as_of() - INTERVAL '90 days') AS customers_90d,
          coalesce(max(numbers.numbers), 0)                                        AS numbers_90d,
          CAST(sum(sightings) AS BIGINT)                                           AS sightings_90d,
          bool_or(is_emulator)                                                     AS is_emulator,
          (date_part('epoch', as_of()) - date_part('epoch', min(first_at))) / 86400 AS age_days
   FROM users LEFT JOIN numbers ON numbers.device_id = users.device_id
   GROUP BY users.device_id;

COMMENT ON COLUMN device_sharing.customers_7d  IS 'distinct customers, 7 days';
COMMENT ON COLUMN device_sharing.customers_90d IS 'distinct customers, 90 days';
COMMENT ON COLUMN device_sharing.numbers_90d   IS 'distinct phone numbers, 90 days';
COMMENT ON COLUMN device_sharing.sightings_90d IS 'sightings, 90 days';
COMMENT ON COLUMN device_sharing.is_emulator   IS 'whether it was ever seen as an emulator';
COMMENT ON COLUMN device_sharing.age_days      IS 'days since it was first seen';
