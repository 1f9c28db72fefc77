CREATE ENTITY customer KEY (customer_id BIGINT)​ COMMENT 'a zero-width space stands before COMMENT';
CREATE FEATURE VIEW v ENTITY customer AS SELECT a – b FROM t;
