CREATE FEATURE VIEW v ENTITY customer EVENT TIME at AS
SELECT customer_id, at,
       INTERVAL '1 day'                 AS an_interval,
       named_struct('a', 1)             AS a_struct,
       MAP {'a': 1}                     AS a_map,
       CAST('10:00:00' AS TIME)         AS a_time,
       NULL                             AS nothing,
       make_array(make_array(1))        AS nested
FROM payments;
