-- The canonical schema: what every data set is turned into.
--
-- The features in features/ read these twelve views and what is pushed to the
-- streams of streams.sql, and nothing else. A data set comes in by an adapter,
-- adapters/<data set>/sources.sql: external tables over its files and one CREATE
-- VIEW for each of the twelve, with exactly these columns, in this order, of
-- these types. A data set that lacks a subject gives an empty view of the right
-- types. A project holds this file, entities.sql, streams.sql, features/,
-- services.sql and ONE adapter.
--
-- Rules
--   * A row is a fact that became true at `at` and is never changed after that;
--     what happened later to the same thing is another row. No column says
--     what was not known at `at`: how a loan ended is not a column of loans.
--   * Times are TIMESTAMP, which is Timestamp(Microsecond, "UTC").
--     A fact known by the day only was known at the end of that day:
--     day + 1 day - 1 microsecond.
--   * Money is DECIMAL(14, 2) in the currency of the lender: sums are exact
--     and do not depend on the order of the rows.
--   * A column is NULL where the data set does not know.
--
-- customers      who has registered; a later row of a customer replaces the earlier
--   customer_id    BIGINT
--   at             TIMESTAMP       registered, or changed
--   birth_date     DATE
--   gender         VARCHAR         'F' or 'M'
--   place_id       BIGINT          village or district of the home
--   phone_number   VARCHAR
--   country        VARCHAR
--
-- accounts       one row an account
--   account_id     BIGINT
--   customer_id    BIGINT          its owner
--   at             TIMESTAMP       opened
--   place_id       BIGINT          village or district of the branch
--   statement_frequency VARCHAR    'monthly', 'weekly' or 'after transaction'
--
-- transactions   one row a movement of an account
--   transaction_id BIGINT
--   account_id     BIGINT
--   at             TIMESTAMP       booked
--   amount         DECIMAL(14, 2)  greater than zero in, less than zero out
--   channel        VARCHAR         'cash', 'card', 'transfer'; 'bank' for what the bank books itself
--   purpose        VARCHAR         'salary', 'pension', 'household', 'insurance', 'loan payment',
--                                  'interest', 'penalty interest', 'fee', 'other' (said, but none of
--                                  these), or NULL (not said)
--   counterparty   VARCHAR         the other account
--
-- loans          one row a loan
--   loan_id        BIGINT
--   application_id BIGINT          what it was granted on
--   customer_id    BIGINT          the borrower
--   account_id     BIGINT          the account it is paid from
--   guarantor_id   BIGINT          a customer who answers for it
--   at             TIMESTAMP       granted
--   amount         DECIMAL(14, 2)
--   term_months    INT
--   instalment     DECIMAL(14, 2)  due every month
--
-- applications   one row an application for a loan, granted or not
--   application_id BIGINT
--   customer_id    BIGINT
--   at             TIMESTAMP       handed in
--   guarantor_id   BIGINT
--   phone_number   VARCHAR         given by the applicant
--   device_id      VARCHAR         that it was handed in from
--   place_id       BIGINT          village or district of the applicant
--   amount         DECIMAL(14, 2)  asked for
--   term_months    INT
--
-- repayments     two rows an instalment or more: one when it falls due, one a payment towards it
--   loan_id        BIGINT
--   customer_id    BIGINT          the borrower
--   instalment_no  INT             1, 2, ..
--   at             TIMESTAMP       of the event
--   event          VARCHAR         'due' or 'paid'
--   due_at         TIMESTAMP       of the instalment; equals `at` in 'due' rows
--   amount         DECIMAL(14, 2)  due, or paid; greater than zero
--
-- purchases      one row a line of an invoice
--   invoice_id     VARCHAR
--   customer_id    BIGINT
--   at             TIMESTAMP
--   item_id        VARCHAR
--   quantity       BIGINT          less than zero for returned goods
--   unit_price     DECIMAL(14, 4)
--   amount         DECIMAL(14, 2)  quantity * unit_price
--   is_return      BOOLEAN         of an invoice that takes goods back
--
-- calls          one row a call
--   caller         VARCHAR         phone number
--   callee         VARCHAR         phone number
--   at             TIMESTAMP       begun
--   seconds        BIGINT          talked; NULL for a missed call
--   is_missed      BOOLEAN
--
-- messages       one row a text message
--   sender         VARCHAR         phone number
--   recipient      VARCHAR         phone number
--   at             TIMESTAMP
--
-- contacts       one row an entry of a phone's address book, or an edge of a social graph;
--                an undirected edge is two rows
--   phone_number   VARCHAR         whose address book
--   contact_number VARCHAR         who stands in it
--   at             TIMESTAMP       first seen there
--
-- devices        one row a sighting: a customer used the app on a device
--   device_id      VARCHAR
--   customer_id    BIGINT
--   phone_number   VARCHAR         of the SIM at that time
--   at             TIMESTAMP
--   platform       VARCHAR         'android', 'ios', 'emulator'
--
-- places         one row a sighting: a customer was at a place
--   customer_id    BIGINT
--   place_id       BIGINT
--   at             TIMESTAMP
--   latitude       DOUBLE          degrees
--   longitude      DOUBLE          degrees

EVENT TIME OF customers    IS at;
EVENT TIME OF accounts     IS at;
EVENT TIME OF transactions IS at;
EVENT TIME OF loans        IS at;
EVENT TIME OF applications IS at;
EVENT TIME OF repayments   IS at;
EVENT TIME OF purchases    IS at;
EVENT TIME OF calls        IS at;
EVENT TIME OF messages     IS at;
EVENT TIME OF contacts     IS at;
EVENT TIME OF devices      IS at;
EVENT TIME OF places       IS at;

COMMENT ON VIEW customers    IS 'who has registered; the latest row of a customer holds';
COMMENT ON VIEW accounts     IS 'accounts and their owners';
COMMENT ON VIEW transactions IS 'movements of accounts, signed';
COMMENT ON VIEW loans        IS 'loans as granted; how they went is in repayments';
COMMENT ON VIEW applications IS 'applications for loans, granted or not';
COMMENT ON VIEW repayments   IS 'instalments falling due and payments towards them';
COMMENT ON VIEW purchases    IS 'lines of invoices, returned goods with negative quantity';
COMMENT ON VIEW calls        IS 'calls between phone numbers';
COMMENT ON VIEW messages     IS 'text messages between phone numbers';
COMMENT ON VIEW contacts     IS 'entries of address books';
COMMENT ON VIEW devices      IS 'sightings of customers on devices';
COMMENT ON VIEW places       IS 'sightings of customers at places';
