CREATE VIEW v AS SELECT customer_id FROM payments JOIN clean_profiles ON payments.customer_id = clean_profiles.customer_id;
