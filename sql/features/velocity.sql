-- Velocity: how often the same customer, device, phone, contact or cell comes
-- back within minutes, hours and days.
--
-- All of it is live: over pushed applications, as of the read, the one that was
-- just pushed included. A key that nobody has seen counts 0. Windows are closed:
-- an event exactly an hour old is within the hour.
--   10 minutes, 1 hour   programs: no person fills in ten forms in ten minutes
--   1 day                shopping around in a hurry
--   7 days               groups of people who act together

CREATE FEATURE VIEW application_in_hand
  ENTITY customer  EVENT TIME at  TTL INTERVAL '7 days'
  OWNER 'fraud-data'  TAGS (topic = 'velocity', pii = 'yes')
  COMMENT 'the last application that the customer pushed; services take keys from it'
AS SELECT customer_id, at, application_id, device_id, phone_number, contact_numbers, amount
   FROM application_event;

COMMENT ON COLUMN application_in_hand.application_id  IS 'the application';
COMMENT ON COLUMN application_in_hand.device_id       IS 'device that it was handed in from';
COMMENT ON COLUMN application_in_hand.phone_number    IS 'number that the applicant gave';
COMMENT ON COLUMN application_in_hand.contact_numbers IS 'contacts that the applicant named';
COMMENT ON COLUMN application_in_hand.amount          IS 'amount asked for';

CREATE FEATURE VIEW customer_velocity
  ENTITY customer  EVENT TIME at
  OWNER 'fraud-data'  TAGS (topic = 'velocity')
  COMMENT 'how often a customer applies, and from how many devices and numbers'
AS SELECT customer_id,
          count(*) OVER m10                    AS applications_10m,
          count(*) OVER h1                     AS applications_1h,
          count(*) OVER d1                     AS applications_1d,
          count(*) OVER d7                     AS applications_7d,
          count(DISTINCT device_id) OVER d7    AS devices_7d,
          count(DISTINCT phone_number) OVER d7 AS phones_7d,
          coalesce(sum(amount) OVER d1, 0)     AS amount_1d
   FROM application_event
   WINDOW m10 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
          h1  AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
          d1  AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
          d7  AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

COMMENT ON COLUMN customer_velocity.applications_10m IS 'applications of the customer, 10 minutes';
COMMENT ON COLUMN customer_velocity.applications_1h  IS 'applications of the customer, 1 hour';
COMMENT ON COLUMN customer_velocity.applications_1d  IS 'applications of the customer, 24 hours';
COMMENT ON COLUMN customer_velocity.applications_7d  IS 'applications of the customer, 7 days';
COMMENT ON COLUMN customer_velocity.devices_7d       IS 'distinct devices applied from, 7 days';
COMMENT ON COLUMN customer_velocity.phones_7d        IS 'distinct numbers given, 7 days: one person under several names changes them';
COMMENT ON COLUMN customer_velocity.amount_1d        IS 'amount asked for, all applications together, 24 hours; 0 without any';

CREATE FEATURE VIEW device_velocity
  ENTITY device  EVENT TIME at
  OWNER 'fraud-data'  TAGS (topic = 'velocity')
  COMMENT 'how many applications and people pass through one device: a farm has few devices for many people'
AS SELECT device_id,
          count(*) OVER m10                    AS applications_10m,
          count(*) OVER h1                     AS applications_1h,
          count(*) OVER d1                     AS applications_1d,
          count(*) OVER d7                     AS applications_7d,
          count(DISTINCT customer_id) OVER h1  AS customers_1h,
          count(DISTINCT customer_id) OVER d7  AS customers_7d,
          count(DISTINCT phone_number) OVER d7 AS phones_7d
   FROM application_event
   WINDOW m10 AS (PARTITION BY device_id ORDER BY at RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
          h1  AS (PARTITION BY device_id ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
          d1  AS (PARTITION BY device_id ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
          d7  AS (PARTITION BY device_id ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

COMMENT ON COLUMN device_velocity.applications_10m IS 'applications from the device, 10 minutes';
COMMENT ON COLUMN device_velocity.applications_1h  IS 'applications from the device, 1 hour';
COMMENT ON COLUMN device_velocity.applications_1d  IS 'applications from the device, 24 hours';
COMMENT ON COLUMN device_velocity.applications_7d  IS 'applications from the device, 7 days';
COMMENT ON COLUMN device_velocity.customers_1h     IS 'distinct applicants, 1 hour';
COMMENT ON COLUMN device_velocity.customers_7d     IS 'distinct applicants, 7 days: a family shares a device, twenty strangers do not';
COMMENT ON COLUMN device_velocity.phones_7d        IS 'distinct numbers given, 7 days';

CREATE FEATURE VIEW phone_velocity
  ENTITY phone  EVENT TIME at
  OWNER 'fraud-data'  TAGS (topic = 'velocity')
  COMMENT 'how often a number is given as the applicant''s own'
AS SELECT phone_number,
          count(*) OVER m10                   AS applications_10m,
          count(*) OVER h1                    AS applications_1h,
          count(*) OVER d1                    AS applications_1d,
          count(*) OVER d7                    AS applications_7d,
          count(DISTINCT customer_id) OVER d7 AS customers_7d,
          count(DISTINCT device_id) OVER d7   AS devices_7d
   FROM application_event
   WINDOW m10 AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
          h1  AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
          d1  AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
          d7  AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

COMMENT ON COLUMN phone_velocity.applications_10m IS 'applications that give the number, 10 minutes';
COMMENT ON COLUMN phone_velocity.applications_1h  IS 'applications that give the number, 1 hour';
COMMENT ON COLUMN phone_velocity.applications_1d  IS 'applications that give the number, 24 hours';
COMMENT ON COLUMN phone_velocity.applications_7d  IS 'applications that give the number, 7 days';
COMMENT ON COLUMN phone_velocity.customers_7d     IS 'distinct applicants who give it, 7 days';
COMMENT ON COLUMN phone_velocity.devices_7d       IS 'distinct devices that it comes from, 7 days';

CREATE FEATURE VIEW contact_velocity
  ENTITY phone  EVENT TIME at
  OWNER 'fraud-data'  TAGS (topic = 'velocity')
  COMMENT 'how many applicants name a number as a contact: strangers do not share acquaintances'
AS SELECT phone_number,
          count(DISTINCT customer_id) OVER m10 AS applicants_10m,
          count(DISTINCT customer_id) OVER h1  AS applicants_1h,
          count(DISTINCT customer_id) OVER d1  AS applicants_1d,
          count(DISTINCT customer_id) OVER d7  AS applicants_7d,
          count(DISTINCT device_id) OVER d7    AS applicant_devices_7d
   FROM application_contacts
   WINDOW m10 AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '10 minutes' PRECEDING AND CURRENT ROW),
          h1  AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW),
          d1  AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW),
          d7  AS (PARTITION BY phone_number ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW);

COMMENT ON COLUMN contact_velocity.applicants_10m       IS 'distinct applicants who name it, 10 minutes';
COMMENT ON COLUMN contact_velocity.applicants_1h        IS 'distinct applicants who name it, 1 hour';
COMMENT ON COLUMN contact_velocity.applicants_1d        IS 'distinct applicants who name it, 24 hours';
COMMENT ON COLUMN contact_velocity.applicants_7d        IS 'distinct applicants who name it, 7 days';
COMMENT ON COLUMN contact_velocity.applicant_devices_7d IS 'distinct devices that they apply from, 7 days';

CREATE ON DEMAND FEATURE VIEW application_contacts_shared
  OWNER 'fraud-data'  TAGS (topic = 'velocity')
  COMMENT 'whether others name the contacts of the application in hand; without one NULL, and 0 shared'
AS SELECT max(named.applicants_1h)                          AS contact_applicants_1h,
          max(named.applicants_7d)                          AS contact_applicants_7d,
          count(*) FILTER (WHERE named.applicants_7d > 1)   AS shared_contacts_7d
   FROM application_in_hand,
        contact_velocity AS named KEY (phone_number => EACH application_in_hand.contact_numbers);

COMMENT ON COLUMN application_contacts_shared.contact_applicants_1h IS 'most applicants who name one of the contacts, the applicant included, 1 hour';
COMMENT ON COLUMN application_contacts_shared.contact_applicants_7d IS 'the same, 7 days';
COMMENT ON COLUMN application_contacts_shared.shared_contacts_7d    IS 'contacts that somebody else names too, 7 days';
