CREATE ENTITY 'customer' KEY (customer_id BIGINT);
CREATE ENTITY 2customer KEY (customer_id BIGINT);
CREATE ENTITY cust-omer KEY (customer_id BIGINT);
CREATE ENTITY "" KEY (customer_id BIGINT);
CREATE ENTITY risk.customer KEY (customer_id BIGINT);
