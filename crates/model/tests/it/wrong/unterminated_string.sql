-- The quote left open swallows the start of the next statements.
CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT 'a person with an account;

CREATE ENTITY device KEY (device_id VARCHAR) COMMENT 'a phone';
CREATE ENTITY place KEY (place_id BIGINT) COMMENT 'it''s a cell';
CREATE ENTITY broken KEY ();
