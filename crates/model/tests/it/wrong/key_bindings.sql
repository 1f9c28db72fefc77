CREATE FEATURE SERVICE s AS SELECT v.a FROM v KEY (customer_id = other);
CREATE FEATURE SERVICE s AS SELECT v.a FROM v KEY (customer_id => );
CREATE FEATURE SERVICE s AS SELECT v.a FROM v KEY ();
CREATE FEATURE SERVICE s AS SELECT v.a FROM v KYE (customer_id => other);
CREATE FEATURE SERVICE s AS SELECT v.a FROM v KEY customer_id => other;
CREATE FEATURE SERVICE s AS SELECT v.a FROM v KEY (customer_id => a, customer_id => b);
CREATE FEATURE SERVICE s AS SELECT v.a FROM v KEY (v.customer_id => a);
