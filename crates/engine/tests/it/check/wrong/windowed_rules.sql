CREATE FEATURE VIEW joined ENTITY customer EVENT TIME at AS
SELECT p.customer_id, sum(amount) OVER w AS s FROM payments p JOIN clean_profiles c ON p.customer_id = c.customer_id
WINDOW w AS (PARTITION BY p.customer_id ORDER BY p.at);
CREATE FEATURE VIEW grouped ENTITY customer EVENT TIME at AS
SELECT DISTINCT customer_id, currency, sum(amount) OVER (PARTITION BY customer_id ORDER BY at) AS s FROM payments LIMIT 3;
CREATE FEATURE VIEW windows ENTITY customer EVENT TIME at AS
SELECT customer_id,
       row_number() OVER (PARTITION BY customer_id ORDER BY at) AS n,
       sum(amount)  OVER (PARTITION BY device_id   ORDER BY at) AS by_device,
       sum(amount)  OVER (PARTITION BY customer_id)             AS unordered,
       sum(amount)  OVER (PARTITION BY customer_id ORDER BY payment_id) AS by_payment,
       sum(amount)  OVER (PARTITION BY customer_id ORDER BY at ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS later,
       sum(amount)  OVER (PARTITION BY customer_id ORDER BY at GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW) AS groups
FROM payments;
CREATE FEATURE VIEW late ENTITY customer EVENT TIME att AS
SELECT customer_id, sum(amount) OVER (PARTITION BY customer_id ORDER BY at) AS s FROM payments;
