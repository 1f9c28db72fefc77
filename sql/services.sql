-- What the lender's services read, each with its own words for it.

CREATE FEATURE SERVICE marketing_targeting
  OWNER 'marketing'  TAGS (tier = 'batch')
  COMMENT 'whom to address, and with what; no credit behaviour'
AS SELECT customer_profile.gender, customer_profile.country, customer_tenure.*,
          customer_shopping.*, customer_shopping_rhythm.*,
          customer_latest_invoice.amount AS last_invoice_amount, customer_latest_invoice.lines AS last_invoice_lines,
          customer_holdings.accounts, customer_holdings.balance_total
   FROM customer_profile, customer_tenure, customer_shopping, customer_shopping_rhythm, customer_latest_invoice, customer_holdings;

CREATE FEATURE SERVICE risk_admission
  OWNER 'risk'  TAGS (tier = 'online')
  COMMENT 'whether to lend: the applicant, the account, the phone, the device, the village, the guarantor'
AS SELECT customer_tenure.*, customer_applications.*, customer_debt.*,
          customer_repayment.days_past_due, customer_repayment.days_late_max, customer_repayment.late_share,
          customer_guarantees.guaranteed_loans, customer_guarantees.guaranteed_days_past_due,
          account_balance.balance, account_balance_90d.*, account_income.*,
          account_flow.transactions_90d, account_flow.credits_90d, account_flow.debits_90d, account_flow.cash_share_90d,
          account_obligations.instalment_burden_180d, account_obligations.obligation_burden_180d,
          account_obligations.penalty_interest_count_180d,
          phone_activity.night_share_28d, phone_activity.missed_share_28d, phone_activity.active_days_28d,
          phone_circle.*, phone_handsets.*,
          device_sharing.customers_7d AS device_customers_7d, device_sharing.customers_90d AS device_customers_90d,
          device_sharing.is_emulator AS device_is_emulator,
          place_heat.applications_7d AS place_applications_7d, place_heat.application_surge AS place_application_surge,
          place_heat.overdue_share AS place_overdue_share, place_heat.fellow_guarantor_share AS place_fellow_guarantor_share,
          customer_movement.travelled_km_90d, customer_movement.fastest_step_kmh_90d,
          guarantor.days_past_due AS guarantor_days_past_due, guarantor.days_late_max AS guarantor_days_late_max,
          guarantor.late_share AS guarantor_late_share,
          guarantor_debt.outstanding AS guarantor_outstanding, guarantor_debt.instalments_monthly AS guarantor_instalments_monthly
   FROM customer_tenure, customer_applications, customer_debt, customer_repayment, customer_guarantees, customer_movement,
        account_balance, account_balance_90d, account_income, account_flow, account_obligations,
        phone_activity, phone_circle, phone_handsets, device_sharing, place_heat,
        customer_repayment AS guarantor KEY (customer_id => guarantor_id),
        customer_debt AS guarantor_debt KEY (customer_id => guarantor_id);

CREATE FEATURE SERVICE fraud_admission
  OWNER 'fraud'  TAGS (tier = 'online')
  COMMENT 'whether an application that was just pushed is one of many: the person, the device, the phone, the contacts, the neighbourhood'
AS SELECT customer_velocity.applications_10m, customer_velocity.applications_1d, customer_velocity.applications_7d,
          customer_velocity.devices_7d, customer_velocity.phones_7d,
          device_velocity.applications_10m AS device_applications_10m, device_velocity.applications_1h AS device_applications_1h,
          device_velocity.applications_1d AS device_applications_1d, device_velocity.customers_7d AS device_customers_7d,
          phone_velocity.applications_1h AS phone_applications_1h, phone_velocity.applications_7d AS phone_applications_7d,
          phone_velocity.devices_7d AS phone_devices_7d,
          phone_circle.contacts_in_28d AS phone_callers_28d, phone_circle.is_never_called_28d AS phone_is_never_called_28d,
          application_contacts_shared.*,
          neighbourhood_heat.applications_1h AS near_applications_1h, neighbourhood_heat.applications_1d AS near_applications_1d,
          neighbourhood_heat.applications_7d AS near_applications_7d,
          neighbourhood_heat.applications_per_resident_7d AS near_applications_per_resident_7d,
          neighbourhood_heat.overdue_share AS near_overdue_share,
          affordability.loan_to_income, affordability.instalment_share, affordability.instalments_share_after
   FROM customer_velocity, device_velocity, phone_velocity, phone_circle,
        application_contacts_shared, neighbourhood_heat, affordability;

CREATE FEATURE SERVICE collections_priority
  OWNER 'collections'  TAGS (tier = 'online')
  COMMENT 'whom to call first, and whether it will help'
AS SELECT loan_terms.amount AS loan_amount, loan_terms.instalment, loan_repayment.*,
          customer_repayment.late_share, customer_repayment.roll_rate_1_to_30, customer_repayment.roll_rate_30_to_60,
          customer_repayment.roll_rate_60_to_90, customer_repayment.days_since_settlement,
          customer_debt.outstanding, customer_debt.loans_open,
          account_balance.balance, account_income.income_monthly, account_income.days_since_income,
          account_latest_credit.amount AS last_credit_amount,
          account_obligations.penalty_interest_180d,
          phone_activity.missed_share_28d, phone_activity.days_since_activity, phone_activity.night_share_28d,
          phone_circle.contacts_28d, phone_circle.contacts_in_28d
   FROM loan_terms, loan_repayment, customer_repayment, customer_debt, account_balance, account_income,
        account_latest_credit, account_obligations, phone_activity, phone_circle;

GRANT READ ON FEATURE SERVICE marketing_targeting  TO ROLE marketing;
GRANT READ ON FEATURE SERVICE risk_admission       TO ROLE risk;
GRANT READ ON FEATURE SERVICE fraud_admission      TO ROLE risk;
GRANT READ ON FEATURE SERVICE collections_priority TO ROLE collections;
GRANT READ ON FEATURE SERVICE collections_priority TO ROLE risk;
