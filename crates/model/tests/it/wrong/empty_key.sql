CREATE ENTITY customer KEY ();
