CREATE VIEW enriched AS
  SELECT e.*, h.city
  FROM events AS e
  LEFT JOIN customer_home FOR SYSTEM_TIME AS OF e.at AS h ON h.customer_id = e.customer_id;
