CREATE ENTITY payments KEY (payment_id BIGINT);
CREATE VIEW customer_spend AS SELECT 1 AS one;
