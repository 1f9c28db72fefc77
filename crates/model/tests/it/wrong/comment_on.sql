COMMENT ON customer IS 'a person';
COMMENT ON COLUMN txn_count_7d IS 'payments';
COMMENT ON COLUM v.txn_count_7d IS 'payments';
COMMENT ON ENTITY customer 'a person';
COMMENT ON ENTITY customer IS person;
COMMENT ON ENTITY customer IS 'a' 'b';
