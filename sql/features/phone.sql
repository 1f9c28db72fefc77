-- Phones: how a number calls, is called, and with whom; numbers of a farm.
--
-- Night is 22:00 to 06:00 UTC. A farm's numbers send and call, nobody calls
-- them back, and many of them sit on few handsets.

CREATE VIEW phone_events AS
SELECT caller AS phone_number, callee AS other_number, at, 'call' AS medium, true AS is_outgoing, is_missed, seconds FROM calls
UNION ALL
SELECT callee, caller, at, 'call', false, is_missed, seconds FROM calls
UNION ALL
SELECT sender, recipient, at, 'message', true, false, CAST(NULL AS BIGINT) FROM messages
UNION ALL
SELECT recipient, sender, at, 'message', false, false, CAST(NULL AS BIGINT) FROM messages;

EVENT TIME OF phone_events IS at;
COMMENT ON VIEW phone_events IS 'calls and messages as seen from both ends';

CREATE FEATURE VIEW phone_latest_call
  ENTITY phone  EVENT TIME at  TTL INTERVAL '90 days'
  OWNER 'fraud-data'  TAGS (topic = 'phone')  COMMENT 'the last call, made or taken; missed ones too'
AS SELECT phone_number, at, other_number, is_outgoing, is_missed, seconds
   FROM phone_events
   WHERE medium = 'call';

COMMENT ON COLUMN phone_latest_call.other_number IS 'the other end';
COMMENT ON COLUMN phone_latest_call.is_outgoing  IS 'whether this number called';
COMMENT ON COLUMN phone_latest_call.is_missed    IS 'whether nobody answered';
COMMENT ON COLUMN phone_latest_call.seconds      IS 'talked; NULL if missed';

CREATE FEATURE VIEW phone_totals
  ENTITY phone  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'phone')  COMMENT 'a number over all its life'
AS SELECT phone_number,
          count(*) FILTER (WHERE medium = 'call')    AS calls_total,
          count(*) FILTER (WHERE medium = 'message') AS messages_total,
          CAST(coalesce(sum(seconds), 0) AS BIGINT)  AS seconds_total,
          min(at)                                    AS first_seen_at
   FROM phone_events
   GROUP BY phone_number;

COMMENT ON COLUMN phone_totals.calls_total    IS 'calls made and taken, missed ones too, ever';
COMMENT ON COLUMN phone_totals.messages_total IS 'messages sent and received, ever';
COMMENT ON COLUMN phone_totals.seconds_total  IS 'talked, ever';
COMMENT ON COLUMN phone_totals.first_seen_at  IS 'first call or message';

CREATE FEATURE VIEW phone_activity
  ENTITY phone  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'phone')  COMMENT 'calls and messages of a number'
AS WITH recent AS (
     SELECT *, medium = 'call' AS is_call, medium = 'message' AS is_message,
            date_part('hour', at) >= 22 OR date_part('hour', at) < 6 AS is_night
     FROM phone_events
     WHERE at > as_of() - INTERVAL '28 days')
   SELECT phone_number,
          count(*) FILTER (WHERE is_call AND is_outgoing)         AS calls_out_28d,
          count(*) FILTER (WHERE is_call AND NOT is_outgoing)     AS calls_in_28d,
          count(*) FILTER (WHERE is_call AND at > as_of() - INTERVAL '7 days') AS calls_7d,
          count(*) FILTER (WHERE is_message AND is_outgoing)      AS messages_out_28d,
          count(*) FILTER (WHERE is_message AND NOT is_outgoing)  AS messages_in_28d,
          count(*) FILTER (WHERE is_message AND at > as_of() - INTERVAL '7 days') AS messages_7d,
          CAST(coalesce(sum(seconds), 0) AS BIGINT)               AS seconds_28d,
          avg(seconds)                                            AS seconds_mean_28d,
          stddev(CAST(seconds AS DOUBLE))                         AS seconds_stddev_28d,
          max(seconds)                                            AS seconds_max_28d,
          CAST(count(*) FILTER (WHERE is_call AND NOT is_outgoing AND is_missed) AS DOUBLE)
            / nullif(count(*) FILTER (WHERE is_call AND NOT is_outgoing), 0) AS missed_share_28d,
          CAST(count(*) FILTER (WHERE is_call AND is_outgoing AND is_missed) AS DOUBLE)
            / nullif(count(*) FILTER (WHERE is_call AND is_outgoing), 0)     AS unanswered_share_28d,
          CAST(count(*) FILTER (WHERE is_night) AS DOUBLE) / count(*)        AS night_share_28d,
          CAST(count(*) FILTER (WHERE is_outgoing) AS DOUBLE) / count(*)     AS outgoing_share_28d,
          count(DISTINCT date_trunc('day', at))                   AS active_days_28d,
          (date_part('epoch', as_of()) - date_part('epoch', max(at))) / 86400 AS days_since_activity
   FROM recent
   GROUP BY phone_number;

COMMENT ON COLUMN phone_activity.calls_out_28d        IS 'calls made, 28 days';
COMMENT ON COLUMN phone_activity.calls_in_28d         IS 'calls that came, missed ones too, 28 days';
COMMENT ON COLUMN phone_activity.calls_7d             IS 'calls made and taken, 7 days';
COMMENT ON COLUMN phone_activity.messages_out_28d     IS 'messages sent, 28 days';
COMMENT ON COLUMN phone_activity.messages_in_28d      IS 'messages received, 28 days';
COMMENT ON COLUMN phone_activity.messages_7d          IS 'messages sent and received, 7 days';
COMMENT ON COLUMN phone_activity.seconds_28d          IS 'talked, 28 days';
COMMENT ON COLUMN phone_activity.seconds_mean_28d     IS 'mean length of a call that was taken, 28 days';
COMMENT ON COLUMN phone_activity.seconds_stddev_28d   IS 'sample standard deviation of these lengths';
COMMENT ON COLUMN phone_activity.seconds_max_28d      IS 'longest call, 28 days';
COMMENT ON COLUMN phone_activity.missed_share_28d     IS 'share of calls that came and were missed, 28 days';
COMMENT ON COLUMN phone_activity.unanswered_share_28d IS 'share of calls made that nobody took, 28 days';
COMMENT ON COLUMN phone_activity.night_share_28d      IS 'share of calls and messages at night, 28 days';
COMMENT ON COLUMN phone_activity.outgoing_share_28d   IS 'share of calls and messages that went out, 28 days';
COMMENT ON COLUMN phone_activity.active_days_28d      IS 'days with a call or message, 28 days';
COMMENT ON COLUMN phone_activity.days_since_activity  IS 'days since the last call or message';

CREATE FEATURE VIEW phone_circle
  ENTITY phone  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'phone')  COMMENT 'with whom a number talks: breadth, reciprocity, concentration'
AS WITH pairs AS (
     SELECT phone_number, other_number,
            count(*)                                 AS events,
            count(*) FILTER (WHERE is_outgoing)      AS outgoing,
            count(*) FILTER (WHERE NOT is_outgoing)  AS incoming
     FROM phone_events
     WHERE at > as_of() - INTERVAL '28 days'
     GROUP BY phone_number, other_number)
   SELECT pairs.phone_number,
          count(*)                                       AS contacts_28d,
          count(*) FILTER (WHERE pairs.incoming > 0)     AS contacts_in_28d,
          count(*) FILTER (WHERE pairs.outgoing > 0)     AS contacts_out_28d,
          CAST(count(*) FILTER (WHERE pairs.incoming > 0 AND pairs.outgoing > 0) AS DOUBLE) / count(*) AS reciprocity_28d,
          CAST(max(pairs.events) AS DOUBLE) / CAST(sum(pairs.events) AS DOUBLE) AS top_contact_share_28d,
          ln(CAST(sum(pairs.events) AS DOUBLE))
            - sum(CAST(pairs.events AS DOUBLE) * ln(CAST(pairs.events AS DOUBLE))) / CAST(sum(pairs.events) AS DOUBLE) AS contact_entropy_28d,
          CAST(count(contacts.contact_number) AS DOUBLE) / count(*) AS address_book_share_28d,
          count(*) FILTER (WHERE pairs.incoming > 0) = 0 AS is_never_called_28d
   FROM pairs LEFT JOIN (SELECT DISTINCT phone_number, contact_number FROM contacts) AS contacts
     ON contacts.phone_number = pairs.phone_number AND contacts.contact_number = pairs.other_number
   GROUP BY pairs.phone_number;

COMMENT ON COLUMN phone_circle.contacts_28d           IS 'distinct numbers talked or written with, 28 days';
COMMENT ON COLUMN phone_circle.contacts_in_28d        IS 'distinct numbers that called or wrote, 28 days';
COMMENT ON COLUMN phone_circle.contacts_out_28d       IS 'distinct numbers called or written to, 28 days';
COMMENT ON COLUMN phone_circle.reciprocity_28d        IS 'share of these numbers in both directions';
COMMENT ON COLUMN phone_circle.top_contact_share_28d  IS 'share of calls and messages with the most frequent number';
COMMENT ON COLUMN phone_circle.contact_entropy_28d    IS 'entropy in nats of calls and messages over numbers';
COMMENT ON COLUMN phone_circle.address_book_share_28d IS 'share of these numbers that stand in the address book';
COMMENT ON COLUMN phone_circle.is_never_called_28d    IS 'a farm signal: active, and nobody called or wrote to it';

CREATE FEATURE VIEW phone_address_book
  ENTITY phone  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'phone')  COMMENT 'the address book of a number, and who has it in theirs'
AS WITH mutual AS (
     SELECT mine.phone_number, mine.contact_number, count(theirs.phone_number) > 0 AS is_mutual
     FROM contacts AS mine LEFT JOIN contacts AS theirs
       ON theirs.phone_number = mine.contact_number AND theirs.contact_number = mine.phone_number
     GROUP BY mine.phone_number, mine.contact_number)
   SELECT phone_number,
          count(*)                                                         AS contacts,
          CAST(count(*) FILTER (WHERE is_mutual) AS DOUBLE) / count(*)     AS mutual_share
   FROM mutual
   GROUP BY phone_number;

COMMENT ON COLUMN phone_address_book.contacts     IS 'numbers in the address book';
COMMENT ON COLUMN phone_address_book.mutual_share IS 'share of these that have this number in theirs';

CREATE FEATURE VIEW phone_handsets
  ENTITY phone  REFRESH EVERY INTERVAL '1 day'
  OWNER 'fraud-data'  TAGS (topic = 'phone')  COMMENT 'on which handsets a number was seen, and with which other numbers: farm signals'
AS WITH seen AS (
     SELECT DISTINCT phone_number, device_id
     FROM devices
     WHERE phone_number IS NOT NULL AND at > as_of() - INTERVAL '90 days'),
   crowd AS (
     SELECT device_id, count(*) AS numbers
     FROM seen
     GROUP BY device_id)
   SELECT seen.phone_number,
          count(*)               AS devices_90d,
          max(crowd.numbers) - 1 AS numbers_on_same_device_90d
   FROM seen JOIN crowd ON crowd.device_id = seen.device_id
   GROUP BY seen.phone_number;

COMMENT ON COLUMN phone_handsets.devices_90d                IS 'distinct devices that the number was in, 90 days';
COMMENT ON COLUMN phone_handsets.numbers_on_same_device_90d IS 'most other numbers seen in one of these devices, 90 days';
