CREATE FEATURE VIEW w ENTITY customer EVENT TIME at CREATED TIME at AS SELECT customer_id, at, income FROM clean_profiles;
CREATE FEATURE VIEW x ENTITY customer EVENT TIME at CREATED TIME writen_at AS SELECT customer_id, at, written_at, income FROM clean_profiles;
