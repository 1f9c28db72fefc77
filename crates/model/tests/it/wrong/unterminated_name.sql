CREATE ENTITY "customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device_id VARCHAR);
