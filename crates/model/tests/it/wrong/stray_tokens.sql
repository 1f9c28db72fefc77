CREATE ENTITY customer KEY (customer_id BIGINT)) COMMENT 'one ) too many';
CREATE ENTITY customer KEY (customer_id BIGINT) 'a person';
EVENT TIME OF t IS at CREATED TIME written_at, seen_at;
