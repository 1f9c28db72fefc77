CREATE ON DEMAND FEATURE VIEW b INPUT (asked DOUBLE) AS SELECT askd / customer_profile.incom AS share FROM customer_profile;
CREATE ON DEMAND FEATURE VIEW c AS SELECT sum(customer_profile.income) AS total FROM customer_profile;
CREATE ON DEMAND FEATURE VIEW d INPUT (customer_id VARCHAR) AS SELECT customer_profile.income + 1 AS more FROM customer_profile;
CREATE ON DEMAND FEATURE VIEW e AS SELECT customer_profile.income > random() AS lucky FROM customer_profile;
