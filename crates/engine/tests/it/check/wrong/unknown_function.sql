CREATE VIEW v AS SELECT cuont(*) AS n, summ(amount) AS total FROM payments;
