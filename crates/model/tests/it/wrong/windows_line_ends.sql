CREATE ENTITY customer KEY (customer_id BIGINT)
  COMENT 'x';
CREATE ENTITY b KEY ();
