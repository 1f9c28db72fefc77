-- What applications push as it happens, and plain views over it.
--
-- The canonical tables are yesterday's: a nightly load. An application for a
-- loan must be judged against those of the last minutes, so it is pushed before
-- it is judged, and the features of features/velocity.sql count it at the next
-- read. The streams do not depend on the adapter.

CREATE STREAM application_event (
    application_id  BIGINT,
    customer_id     BIGINT,
    device_id       VARCHAR,        -- that it is handed in from
    phone_number    VARCHAR,        -- given by the applicant
    contact_numbers VARCHAR[],      -- whom to ask about the applicant
    latitude        DOUBLE,         -- degrees, where it is handed in
    longitude       DOUBLE,
    amount          DECIMAL(14, 2), -- asked for
    term_months     INT,
    at              TIMESTAMP)      -- handed in
  EVENT TIME at  DEDUPLICATE BY (application_id)
  OWNER 'origination'  TAGS (pii = 'yes')
  COMMENT 'applications for loans as they are handed in, granted or not; pushed again, one counts once';

-- Cells are of resolution 7: about five square kilometres, so that a cell and
-- the six around it are a village and its fields.
CREATE VIEW application_cells AS
SELECT h3_cell(latitude, longitude, 7) AS cell, customer_id, device_id, amount, at
FROM application_event;

CREATE VIEW application_contacts AS
SELECT unnest(contact_numbers) AS phone_number, customer_id, device_id, at
FROM application_event;

COMMENT ON VIEW application_cells    IS 'pushed applications, each in the cell that it was handed in from';
COMMENT ON VIEW application_contacts IS 'pushed applications, one row for each contact that they name';
