-- What the lender's features describe.

CREATE ENTITY customer KEY (customer_id BIGINT)
  COMMENT 'a person who registered, buys, or holds an account';

CREATE ENTITY account KEY (account_id BIGINT)
  COMMENT 'an account that money moves on';

CREATE ENTITY loan KEY (loan_id BIGINT)
  COMMENT 'a loan as granted';

CREATE ENTITY phone KEY (phone_number VARCHAR)
  COMMENT 'a phone number, of a customer or of anyone whom customers call';

CREATE ENTITY device KEY (device_id VARCHAR)
  COMMENT 'a handset that the app was used on';

CREATE ENTITY place KEY (place_id BIGINT)
  COMMENT 'a village or district';

CREATE ENTITY cell KEY (cell BIGINT)
  COMMENT 'a hexagon of H3, of resolution 7: about five square kilometres, whatever lies in it';
