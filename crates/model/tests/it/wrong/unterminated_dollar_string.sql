CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT $x$a person$y$;
