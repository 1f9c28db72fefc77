CREATE ON DEMAND FEATURE VIEW a INPUT (asked DOUBLE) AS SELECT asked / customer_profile.income AS share FROM customer_profile;
CREATE ON DEMAND FEATURE VIEW b INPUT (asked INT) AS SELECT asked * a.share AS twice FROM a;
CREATE ON DEMAND FEATURE VIEW c INPUT (income DOUBLE) AS SELECT income + 1 AS more FROM customer_profile;
CREATE ON DEMAND FEATURE VIEW d AS SELECT input.income + 1 AS more FROM customer_profile AS input;
CREATE ON DEMAND FEATURE VIEW e AS SELECT customer_label.is_big AS is_big FROM customer_label;
CREATE FEATURE SERVICE s AS SELECT e.is_big FROM e;
