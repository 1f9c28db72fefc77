CREATE FEATURE VIEW a ENTITY custmer AS SELECT customer_id, ammount FROM payments;
CREATE FEATURE VIEW b ENTITY customer AS SELECT customer_id, now() AS n FROM paymnts;
GRANT READ ON FEATURE SERVICE nobody TO ROLE risk;
