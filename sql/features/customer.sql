-- Customers: who they are, what they apply for, what they hold.

CREATE FEATURE VIEW customer_profile
  ENTITY customer  EVENT TIME at
  OWNER 'crm'  TAGS (topic = 'profile', pii = 'yes')  COMMENT 'the customer as last registered'
AS SELECT customer_id, at, birth_date, gender, place_id AS home_place_id, phone_number, country
   FROM customers;

COMMENT ON COLUMN customer_profile.birth_date    IS 'date of birth';
COMMENT ON COLUMN customer_profile.gender        IS 'F or M';
COMMENT ON COLUMN customer_profile.home_place_id IS 'village or district of the home';
COMMENT ON COLUMN customer_profile.phone_number  IS 'phone number that the customer gave';
COMMENT ON COLUMN customer_profile.country       IS 'country of residence';

CREATE FEATURE VIEW customer_tenure
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'crm'  TAGS (topic = 'profile', pii = 'yes')  COMMENT 'age and time as a customer'
AS SELECT customer_id,
          CAST(floor((date_part('epoch', as_of()) - date_part('epoch', max(birth_date))) / 86400 / 365.25) AS INT) AS age_years,
          (date_part('epoch', as_of()) - date_part('epoch', min(at))) / 86400 AS tenure_days
   FROM customers
   GROUP BY customer_id;

COMMENT ON COLUMN customer_tenure.age_years   IS 'age in full years of 365.25 days';
COMMENT ON COLUMN customer_tenure.tenure_days IS 'days since the customer first registered';

CREATE FEATURE VIEW customer_latest_application
  ENTITY customer  EVENT TIME at  TTL INTERVAL '90 days'
  OWNER 'risk-data'  TAGS (topic = 'application', pii = 'yes')
  COMMENT 'the last application; of several at one time the largest'
AS SELECT customer_id, at, amount, term_months, application_id, guarantor_id, phone_number, device_id, place_id
   FROM applications;

COMMENT ON COLUMN customer_latest_application.amount         IS 'amount asked for';
COMMENT ON COLUMN customer_latest_application.term_months    IS 'months asked for';
COMMENT ON COLUMN customer_latest_application.application_id IS 'the application';
COMMENT ON COLUMN customer_latest_application.guarantor_id   IS 'customer named as guarantor';
COMMENT ON COLUMN customer_latest_application.phone_number   IS 'phone number given';
COMMENT ON COLUMN customer_latest_application.device_id      IS 'device that it came from';
COMMENT ON COLUMN customer_latest_application.place_id       IS 'village or district of the applicant';

CREATE FEATURE VIEW customer_applications
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'risk-data'  TAGS (topic = 'application')  COMMENT 'how often and how widely a customer applies'
AS WITH recent AS (
     SELECT * FROM applications WHERE at > as_of() - INTERVAL '365 days'),
   device_counts AS (
     SELECT customer_id, count(*) AS devices
     FROM (SELECT DISTINCT customer_id, device_id FROM recent WHERE device_id IS NOT NULL)
     GROUP BY customer_id),
   phone_counts AS (
     SELECT customer_id, count(*) AS phones
     FROM (SELECT DISTINCT customer_id, phone_number FROM recent WHERE phone_number IS NOT NULL)
     GROUP BY customer_id),
   totals AS (
     SELECT applications.customer_id, max(applications.at) AS last_at,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '30 days')   AS applications_30d,
            count(*) FILTER (WHERE at > as_of() - INTERVAL '365 days')  AS applications_365d,
            max(amount) FILTER (WHERE at > as_of() - INTERVAL '365 days') AS amount_asked_max_365d,
            CAST(count(granted.application_id) AS DOUBLE) / count(*)    AS granted_share
     FROM applications LEFT JOIN (SELECT DISTINCT application_id FROM loans) AS granted
       ON granted.application_id = applications.application_id
     GROUP BY applications.customer_id)
   SELECT totals.customer_id,
          applications_30d,
          applications_365d,
          coalesce(devices, 0) AS application_devices_365d,
          coalesce(phones, 0)  AS application_phones_365d,
          amount_asked_max_365d,
          granted_share,
          (date_part('epoch', as_of()) - date_part('epoch', last_at)) / 86400 AS days_since_application
   FROM totals
     LEFT JOIN device_counts ON device_counts.customer_id = totals.customer_id
     LEFT JOIN phone_counts ON phone_counts.customer_id = totals.customer_id;

COMMENT ON COLUMN customer_applications.applications_30d         IS 'applications, 30 days';
COMMENT ON COLUMN customer_applications.applications_365d        IS 'applications, 365 days';
COMMENT ON COLUMN customer_applications.application_devices_365d IS 'distinct devices applied from, 365 days';
COMMENT ON COLUMN customer_applications.application_phones_365d  IS 'distinct phone numbers given, 365 days';
COMMENT ON COLUMN customer_applications.amount_asked_max_365d    IS 'largest amount asked for, 365 days';
COMMENT ON COLUMN customer_applications.granted_share            IS 'share of applications that became a loan';
COMMENT ON COLUMN customer_applications.days_since_application   IS 'days since the last application';

CREATE FEATURE VIEW customer_holdings
  ENTITY customer  REFRESH EVERY INTERVAL '1 day'
  OWNER 'core-banking'  TAGS (topic = 'balance')  COMMENT 'all accounts of a customer together; reads their balances'
AS SELECT accounts.customer_id,
          count(*)                                               AS accounts,
          (date_part('epoch', as_of()) - date_part('epoch', min(accounts.at))) / 86400 AS days_since_first_account,
          CAST(sum(account_balance.balance) AS DECIMAL(18, 2))   AS balance_total,
          CAST(min(account_balance.lowest_balance) AS DECIMAL(18, 2)) AS lowest_balance,
          CAST(sum(account_balance.transactions_total) AS BIGINT) AS transactions_total
   FROM accounts LEFT JOIN account_balance ON account_balance.account_id = accounts.account_id
   GROUP BY accounts.customer_id;

COMMENT ON COLUMN customer_holdings.accounts                 IS 'accounts owned';
COMMENT ON COLUMN customer_holdings.days_since_first_account IS 'days since the first account was opened';
COMMENT ON COLUMN customer_holdings.balance_total            IS 'balances together; NULL if nothing was ever booked';
COMMENT ON COLUMN customer_holdings.lowest_balance           IS 'lowest balance that any account ever had';
COMMENT ON COLUMN customer_holdings.transactions_total       IS 'movements on all accounts, ever';
