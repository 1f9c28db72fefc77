CREATE ENTITY customer KEY (customer_id);
CREATE ENTITY customer KEY (customer_id BIGINT, );
CREATE ENTITY customer KEY (customer_id BIGINT device_id BIGINT);
CREATE ENTITY customer KEY customer_id BIGINT;
CREATE ENTITY customer KEY (BIGINT customer_id);
