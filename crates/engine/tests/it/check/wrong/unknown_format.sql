CREATE EXTERNAL TABLE a STORED AS EXCEL LOCATION 'data/payments.csv';
CREATE EXTERNAL TABLE b STORED AS CSV LOCATION 'data/payments.csv' OPTIONS ('format.delimeter' ';');
