-- Grain: one row per bin of users by log2 of their events, and per item: its term of the index.
-- Population stability index: the sum over bins of (share - last share) * ln(share / last share) (N. Siddiqi,
-- Credit Risk Scorecards, 2006); in the logarithm, shares are at least 1e-4, also of empty bins.
-- Each user counts once. Items are weighted by events: ten bins by popularity with about equal shares of the
-- last run's events, and one of new items; an item's term is (share - last share) * its bin's logarithm.
with

user_bins as (
    select
        cast(floor(log2(events)) as integer) as bin,
        count(*) as user_count,
        0 as last_count
    from profile_users
    group by bin
    union all
    select
        cast(floor(log2(events)) as integer) as bin,
        0 as user_count,
        count(*) as last_count
    from last_users
    group by bin
),

user_shares as (
    select
        bin,
        sum(user_count) / nullif(sum(sum(user_count)) over (), 0) as share_now,
        sum(last_count) / nullif(sum(sum(last_count)) over (), 0) as share_last
    from user_bins
    group by bin
),

last_bins as (
    select
        item_id,
        events,
        floor(
            10 * (sum(events) over (order by events desc, item_id asc) - events) / sum(events) over ()
        ) as bin
    from last_items
),

item_bins as (
    select
        coalesce(last_bins.item_id, profile_items.item_id) as item_id,
        coalesce(last_bins.bin, 10) as bin,
        coalesce(profile_items.events, 0) as events,
        coalesce(last_bins.events, 0) as last_events
    from last_bins
    full join profile_items on last_bins.item_id = profile_items.item_id
),

item_shares as (
    select
        item_id,
        bin,
        events / nullif(sum(events) over (), 0) as share_now,
        last_events / nullif(sum(last_events) over (), 0) as share_last
    from item_bins
),

bin_logarithms as (
    select
        bin,
        ln(greatest(sum(share_now), 1e-4) / greatest(sum(share_last), 1e-4)) as logarithm
    from item_shares
    group by bin
)

select
    'user_psi' as measure,
    'users of ' || (1 << bin) || ' to ' || ((2 << bin) - 1) || ' events' as what,
    share_last,
    share_now,
    (share_now - share_last) * ln(greatest(share_now, 1e-4) / greatest(share_last, 1e-4)) as psi
from user_shares
union all
select
    'item_psi' as measure,
    if(bin_logarithms.bin = 10, 'new item ', 'item ') || item_shares.item_id as what,
    item_shares.share_last,
    item_shares.share_now,
    (item_shares.share_now - item_shares.share_last) * bin_logarithms.logarithm as psi
from item_shares
inner join bin_logarithms on item_shares.bin = bin_logarithms.bin
