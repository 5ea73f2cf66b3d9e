from django.contrib.auth.models import Group

from webhooks.tracking import tracked

# A model of somebody else's. Its rows have no owner: platform webhooks hear of them.
tracked(owner=None, fields=["name"])(Group)
