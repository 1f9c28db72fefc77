EVENT TIME OF payments IS at;
EVENT TIME OF profiles IS att;
EVENT TIME OF customer_spend IS at;
EVENT TIME OF proflies IS at;
EVENT TIME OF clean_profiles IS at CREATED TIME at;
