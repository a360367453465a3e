"""Changes to stored sets, as other plugins and users make them."""


def change(a_set, ts_id, action):
    """Store the images or CTFs of one series for which ``action``, called with each, returns true."""
    for series in a_set.iterItems():
        if series.getTsId() == ts_id:
            for number in sorted(series.getIdSet()):
                item = series[number]
                if action(item):
                    series.update(item)
            series.write(properties=False)
    a_set.write()
