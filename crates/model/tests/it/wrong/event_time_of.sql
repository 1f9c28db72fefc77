EVENT TIME clean_transactions IS at;
EVENT TIME OF clean_transactions at;
EVENT TIME OF clean_transactions IS 'at';
EVENT TIME OF clean_transactions IS at WRITTEN TIME w;
EVENT TIME OF clean_transactions IS at CREATED w;
