CREATE ENTITY customer KEY (customer_id BIGINT) /*! COMMENT 'read by some'; */;
CREATE ENTITY device KEY (device_id)
